"""One folder for each research system; every folder is a plug-in and imports no other.

``plugin.py`` tells the registry what the folder offers. The other files have the same names in every folder:
``config.py`` hyper-parameters, ``functional.py`` equations, ``modules.py`` layers, ``losses.py``, ``data.py``
training rows, ``model.py`` what users call, ``recipe.py`` training, ``evaluation.py`` benchmarks.
"""
