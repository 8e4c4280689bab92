"""Captioning and filtering (CapFilt, arXiv 2201.12086, section 3.3): web pictures with texts -> a set to train on."""
