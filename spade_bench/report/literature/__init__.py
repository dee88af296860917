"""What others have published: papers and licences of what was used, and numbers beside yours."""
