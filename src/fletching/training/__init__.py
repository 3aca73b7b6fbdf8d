"""What training recipes share.

- `recipe.py`: `TrainingFolder`, where a recipe writes and what it finds there when it goes on
- `epochs.py`: `EpochCallback`, for rows that change from epoch to epoch
- `lengths.py`: `LengthGroupedBatchSampler`, batches with little padding
- `reports.py`: `run_trainer`, which keeps losses off stdout
- `smoke.py`: `save_character_bert` and `save_word_bert`, what smoke runs start from
- `teacher_scores.py`: `TeacherScores`, what a teacher says about texts, computed once and found by the texts
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.training.epochs import EpochCallback as EpochCallback
    from fletching.training.lengths import LengthGroupedBatchSampler as LengthGroupedBatchSampler
    from fletching.training.recipe import TrainingFolder as TrainingFolder
    from fletching.training.recipe import hash_file as hash_file
    from fletching.training.reports import run_trainer as run_trainer
    from fletching.training.smoke import save_character_bert as save_character_bert
    from fletching.training.smoke import save_word_bert as save_word_bert
    from fletching.training.teacher_scores import TeacherScores as TeacherScores

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "EpochCallback": "fletching.training.epochs:EpochCallback",
        "LengthGroupedBatchSampler": "fletching.training.lengths:LengthGroupedBatchSampler",
        "TeacherScores": "fletching.training.teacher_scores:TeacherScores",
        "TrainingFolder": "fletching.training.recipe:TrainingFolder",
        "hash_file": "fletching.training.recipe:hash_file",
        "run_trainer": "fletching.training.reports:run_trainer",
        "save_character_bert": "fletching.training.smoke:save_character_bert",
        "save_word_bert": "fletching.training.smoke:save_word_bert",
    },
)
