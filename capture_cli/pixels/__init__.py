"""Pixels of image files: decoded safely, once, and held in memory or on disk.

decoding    bytes of one file -> uint8 [C, H, W]; the bytes are hostile until they have been through here
formats     what the bytes say before they are decoded: the format, which way up
depth       more than 8 bits become 8
geometry    the height, width and channels of a run's inputs, and how pictures are brought to them
choosing    a geometry chosen from the images of a folder
admission   files read, digested and decoded, in threads where that pays
similarity  a small perceptual hash, and the images that it finds alike
findings    copies, leaks, contradicting labels and pictures of one colour
store       the pixels of a run: one protocol for memory and disk
cache       decoded pixels kept from run to run, found by the digest of the file
slots       files of equally large pictures, which store and cache share
"""
