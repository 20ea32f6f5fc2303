"""What the parts of the method cost, each compared with a floor measured in the same process."""
