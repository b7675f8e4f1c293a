"""What only programs of the original ANA need."""
