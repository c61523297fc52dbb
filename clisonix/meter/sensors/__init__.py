"""What can be read of this machine: one file for each kind of sensor, behind one interface."""
