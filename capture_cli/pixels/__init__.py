"""Pixels of image files: decoded safely, once, and held in memory or on disk.

decoding    bytes of one file -> uint8 [C, H, W]; the bytes are hostile until they have been through here
geometry    the height, width and channels of a run's inputs
admission   files read, digested and decoded, in threads where that pays
store       the pixels of a run: one protocol for memory and disk
cache       decoded pixels kept from run to run, found by the digest of the file
slots       files of equally large pictures, which store and cache share
"""
