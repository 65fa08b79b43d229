"""Trainings beyond that of one depth; each module serves a stage of its own."""
