"""DefSent+: sentence embeddings from a dictionary (Liu, arXiv 2405.16153), and its ancestor DefSent.

An encoder reads the definitions of a dictionary and is told the entry of each. In DefSent (Tsukagoshi et al.,
ACL 2021, arXiv 2105.04339) an entry is a word of the vocabulary; in DefSent+ it is the mean of its
definitions as an earlier encoder sees them, so that expressions of several words are entries, too. Stages
repeat this from the same start, on entries that become more and more isotropic.

Map of the folder, in reading order:

- `config.py`: the names of the poolings, the template, the settings of ICA, and their sources
- `checkpoints.py`: which checkpoints are the authors', and what they leave unsaid
- `readers.py`, `data.py`: definitions from files and dictionaries, :class:`DefinitionSet`
- `functional.py`: the equations, and measures of isotropy
- `modules.py`: prompt pooling
- `entries.py`: :class:`EntryEmbeddings`, one vector for each entry
- `dictionary.py`: the way back, from a definition to entries
- `model.py`: :class:`DefSentPlusEmbedder`, what users call
- `heads.py`: what stands between a sentence vector and the entries in training
- `losses.py`: the training objectives of both methods
- `training.py`: one stage on the trainer of sentence-transformers
- `stages.py`: the stages of a training
- `evaluation.py`: sentence pairs, definitions to entries, isotropy
- `presets.py`: what the authors trained with
- `sources.py`: dictionaries by their paths and names
- `synthetic.py`: what smoke runs train on
- `recipe.py`: the whole training
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.defsent_plus.config import TEMPLATE as TEMPLATE
    from fletching.methods.defsent_plus.config import ICAConfig as ICAConfig
    from fletching.methods.defsent_plus.data import DefinitionSet as DefinitionSet
    from fletching.methods.defsent_plus.data import DefinitionStatistics as DefinitionStatistics
    from fletching.methods.defsent_plus.dictionary import EntryHit as EntryHit
    from fletching.methods.defsent_plus.entries import EntryEmbeddings as EntryEmbeddings
    from fletching.methods.defsent_plus.functional import ica_transform as ica_transform
    from fletching.methods.defsent_plus.functional import iso_score as iso_score
    from fletching.methods.defsent_plus.functional import mean_cosine as mean_cosine
    from fletching.methods.defsent_plus.functional import partition_isotropy as partition_isotropy
    from fletching.methods.defsent_plus.losses import DefinitionProjectionLoss as DefinitionProjectionLoss
    from fletching.methods.defsent_plus.losses import SingleWordLoss as SingleWordLoss
    from fletching.methods.defsent_plus.model import DefSentPlusEmbedder as DefSentPlusEmbedder
    from fletching.methods.defsent_plus.model import compare_isotropy as compare_isotropy
    from fletching.methods.defsent_plus.modules import MaskPooling as MaskPooling
    from fletching.methods.defsent_plus.modules import PromptTransformer as PromptTransformer
    from fletching.methods.defsent_plus.readers import clean_definition as clean_definition
    from fletching.methods.defsent_plus.recipe import DefSentPlusRecipe as DefSentPlusRecipe
    from fletching.methods.defsent_plus.stages import ProgressiveSeparateTrainer as ProgressiveSeparateTrainer
    from fletching.methods.defsent_plus.stages import Stage as Stage
    from fletching.methods.defsent_plus.training import TrainingOptions as TrainingOptions

_FOLDER = "fletching.methods.defsent_plus"

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "DefSentPlusEmbedder": f"{_FOLDER}.model:DefSentPlusEmbedder",
        "DefSentPlusRecipe": f"{_FOLDER}.recipe:DefSentPlusRecipe",
        "DefinitionProjectionLoss": f"{_FOLDER}.losses:DefinitionProjectionLoss",
        "DefinitionSet": f"{_FOLDER}.data:DefinitionSet",
        "DefinitionStatistics": f"{_FOLDER}.data:DefinitionStatistics",
        "EntryEmbeddings": f"{_FOLDER}.entries:EntryEmbeddings",
        "EntryHit": f"{_FOLDER}.dictionary:EntryHit",
        "ICAConfig": f"{_FOLDER}.config:ICAConfig",
        "MaskPooling": f"{_FOLDER}.modules:MaskPooling",
        "ProgressiveSeparateTrainer": f"{_FOLDER}.stages:ProgressiveSeparateTrainer",
        "PromptTransformer": f"{_FOLDER}.modules:PromptTransformer",
        "SingleWordLoss": f"{_FOLDER}.losses:SingleWordLoss",
        "Stage": f"{_FOLDER}.stages:Stage",
        "TEMPLATE": f"{_FOLDER}.config:TEMPLATE",
        "TrainingOptions": f"{_FOLDER}.training:TrainingOptions",
        "clean_definition": f"{_FOLDER}.readers:clean_definition",
        "compare_isotropy": f"{_FOLDER}.model:compare_isotropy",
        "ica_transform": f"{_FOLDER}.functional:ica_transform",
        "iso_score": f"{_FOLDER}.functional:iso_score",
        "mean_cosine": f"{_FOLDER}.functional:mean_cosine",
        "partition_isotropy": f"{_FOLDER}.functional:partition_isotropy",
    },
)
