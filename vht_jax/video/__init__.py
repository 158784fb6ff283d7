"""Video files and photographs: decoding and encoding, upright square pixels, hard cuts."""
