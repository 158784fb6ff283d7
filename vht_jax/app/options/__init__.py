"""What can be set, and where the settings come from: flags, VHT's .ini files, file names."""
