"""What is simulated: devices with sourced figures, engines, and topologies."""
