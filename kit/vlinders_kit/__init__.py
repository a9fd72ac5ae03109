"""What every part of the platform shares and no part owns. It knows no word of the domain."""
