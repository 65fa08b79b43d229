"""What a stage needs of its machine and cannot change results: output, device, progress, energy, provenance, resume.

No stage depends on this folder, so that mending it makes nothing run again.
"""
