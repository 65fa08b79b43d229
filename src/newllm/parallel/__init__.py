"""Stages beside one another through DVC's own queue of experiments: python -m newllm.parallel.

DVC runs the stages of a pipeline one after the other, but queued experiments side by side, each in a copy of the
project, and what an experiment has computed it finds again in its run cache. So stages that belong together become
experiments of a clone of the project, which is made for that and removed afterwards. At the end the project itself
takes all of them from the run cache, and `dvc repro` finds them up to date. Experiments, queue and copies are the
clone's, and the user's own stay as they are.
"""
