"""What training recipes share.

- `recipe.py`: `TrainingFolder`, where a recipe writes and what it finds there when it goes on; `describe_run`
  and `forget_run`, for what it must not go on with
- `epochs.py`: `EpochCallback`, for rows that change from epoch to epoch
- `lengths.py`: `LengthGroupedBatchSampler`, batches with little padding
- `processes.py`: `main_process_first`, for runs of several processes, of which one writes
- `reports.py`: `run_trainer`, which keeps losses off stdout
- `smoke.py`: `save_character_bert` and `save_word_bert`, what smoke runs start from
- `teacher_scores.py`: `TeacherScores`, what a teacher says about texts, computed once and found by the texts
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.training.epochs import EpochCallback as EpochCallback
    from fletching.training.lengths import LengthGroupedBatchSampler as LengthGroupedBatchSampler
    from fletching.training.lengths import choose_batch_sampler as choose_batch_sampler
    from fletching.training.processes import count_processes as count_processes
    from fletching.training.processes import main_process_first as main_process_first
    from fletching.training.recipe import TrainingFolder as TrainingFolder
    from fletching.training.recipe import describe_run as describe_run
    from fletching.training.recipe import forget_run as forget_run
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
        "choose_batch_sampler": "fletching.training.lengths:choose_batch_sampler",
        "count_processes": "fletching.training.processes:count_processes",
        "describe_run": "fletching.training.recipe:describe_run",
        "forget_run": "fletching.training.recipe:forget_run",
        "hash_file": "fletching.training.recipe:hash_file",
        "main_process_first": "fletching.training.processes:main_process_first",
        "run_trainer": "fletching.training.reports:run_trainer",
        "save_character_bert": "fletching.training.smoke:save_character_bert",
        "save_word_bert": "fletching.training.smoke:save_word_bert",
    },
)
