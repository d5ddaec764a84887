"""Where an artefact and its float reference part: the first op, the layer that it comes from, and the error's growth.

reference  what each op of the float model computes
matching   which of those an artefact's op computes, whatever its layout
blame      the op at which they part
bundles    the same for a shipped bundle, beside the model that it was made of
encoders   of a dual encoder's, on the sample that each component answers worst
talkers    of one that talks: each function, on the picture or dialogue that it answers worst
page       the picture of it
"""
