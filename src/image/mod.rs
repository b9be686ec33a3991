//! From the bytes of a picture to the pixel values of its tiles.
