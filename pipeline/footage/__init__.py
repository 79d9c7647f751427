"""Real footage, read and written whole: exact times, any range of pictures, and everything else that a file holds."""
