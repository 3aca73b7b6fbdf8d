"""Made-up collections in the layout of Multi-CPR: for tests and first tries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from pathlib import Path
from random import Random

from fletching.data.lines import StrPath, write_lines
from fletching.errors import bad_argument

__all__ = ["write_synthetic"]

_REPEATED = 0.066  # share of the video domain's training pairs whose passage another pair has too
_PARTS = 4  # files of the medical passages


@dataclass(frozen=True)
class _Domain:
    """How texts and ids of a domain are made up.

    Args:
        name: Its folder.
        words: Lists of words; a passage has one of each, and no two passages the same ones.
        write_passage: From the words of a passage to its text.
        write_query: From some of these words to a query.
        query_start: First query id by split.
        passage_step: Largest gap between two passage ids.
        dev_start: First id of the dev split's passages; ``None`` if they stand among the others.
        repeated: Share of training pairs that repeat a passage.
        parts: Files of the passages.
    """

    name: str
    words: tuple[tuple[str, ...], ...]
    write_passage: Callable[[Sequence[str]], str]
    write_query: Callable[[Sequence[str]], str]
    query_start: dict[str, int]
    passage_step: int = 1
    dev_start: int | None = None
    repeated: float = 0.0
    parts: int = 1


_ECOM = _Domain(
    "ecom",
    (
        ("阿瑞", "北木", "晨光里", "东篱", "飞羽", "古桐", "海棠家", "JINGYI", "兰舟", "明月坊"),
        ("红色", "蓝色", "米白", "墨绿", "浅灰", "粉色", "黑色", "卡其"),
        ("纯棉", "亚麻", "羊毛", "真丝", "牛仔", "雪纺", "针织", "帆布"),
        ("连衣裙", "衬衫", "外套", "长裤", "围巾", "帽子", "背包", "拖鞋", "毛衣", "短裙"),
    ),
    lambda words: f"{words[0]}{words[2]}{words[3]}女2021新款{words[1]}宽松显瘦百搭正品包邮",
    lambda words: f"{words[1]}{words[0].lower()}{words[3]}",
    {"train": 1, "dev": 200_000},
)
_VIDEO = _Domain(
    "video",
    (
        ("长安", "江湖", "星河", "故园", "山海", "春风", "孤城", "云水", "青松", "白鹿"),
        ("往事", "传说", "之恋", "奇缘", "密码", "人家", "迷踪", "少年"),
        tuple(f"第{number}集" for number in range(1, 21)),
        ("国语版", "粤语版", "花絮", "预告片", "片尾曲"),
    ),
    lambda words: f"电视剧《{words[0]}{words[1]}》{words[2]}{words[3]}高清在线观看",
    lambda words: f"{words[0]}{words[1]}{words[2].strip('第集')}{words[3]}",
    {"train": 6, "dev": 15},
    passage_step=3,
    repeated=_REPEATED,
)
_MEDICAL = _Domain(
    "medical",
    (
        ("感冒", "胃炎", "失眠", "湿疹", "贫血", "鼻炎", "痛风", "便秘", "高血压", "糖尿病"),
        ("儿童", "孕妇", "老人", "青年", "产妇", "学生", "运动员", "司机"),
        ("饮食", "用药", "运动", "复查", "护理", "检查", "预防", "休息"),
        ("初期", "晚期", "反复发作", "手术后", "夜间", "换季时", "空腹", "发热时"),
    ),
    lambda words: (
        f"{words[1]}{words[3]}患有{words[0]}时{words[2]}方面应当遵医嘱。避免劳累和刺激。"
        f"多观察症状变化。如果{words[0]}没有缓解、建议尽快到医院就诊。"
    ),
    lambda words: f"{words[1]}{words[3]}得了{words[0]}{words[2]}要注意什么",
    {"train": 1, "dev": 1},  # the ids of the two splits collide
    dev_start=30_000_001,
    parts=_PARTS,
)


def write_synthetic(
    root: StrPath, *, n_passages: int = 600, n_train: int = 200, n_dev: int = 50, seed: int = 0
) -> Path:
    """Write the three domains in the layout of the official files, with texts made up of a few words.

    What loaders stumble over is there: passages of the medical domain in four files, its query ids that
    train and dev share, ids with gaps, and 6.6 % of the video domain's training pairs that repeat a passage.
    A query names most of what its passage says, so that words alone find it. Nothing measured on these texts
    says anything about real ones.

    Args:
        root: Folder that the domains' folders are made in.
        n_passages: Of each domain; no more than a domain has combinations of words.
        n_train: Training queries of each domain.
        n_dev: Queries of each domain's dev split.
        seed: Same seed, same files.

    Returns:
        ``root``.

    Raises:
        ArgumentError: If the passages are too few for the queries, or too many.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from fletching.methods.multi_cpr import MultiCPRDataset
        >>> with TemporaryDirectory() as folder:
        ...     root = write_synthetic(folder, n_passages=100, n_train=40, n_dev=10)
        ...     MultiCPRDataset(root, "medical", "dev")
        MultiCPRDataset('multi_cpr_medical_dev': 10 queries, 10 judged)
    """
    root = Path(root)
    domains = (_ECOM, _MEDICAL, _VIDEO)
    most = min(prod(map(len, domain.words)) for domain in domains)
    if not (n_train >= 1 and n_dev >= 1 and n_train + n_dev <= n_passages <= most):
        domain = f"from n_train + n_dev, both >= 1, to {most}"
        raise bad_argument("write_synthetic", "n_passages", domain, n_passages)
    for place, made_up in enumerate(domains):
        _write_domain(root / made_up.name, made_up, n_passages, n_train, n_dev, Random(seed * 3 + place))
    return root


def _write_domain(
    folder: Path, domain: _Domain, n_passages: int, n_train: int, n_dev: int, generator: Random
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chosen = generator.sample(list(product(*domain.words)), n_passages)
    n_distinct = n_train - round(n_train * domain.repeated)
    judged = {"dev": list(range(n_dev)), "train": list(range(n_dev, n_dev + n_distinct))}
    judged["train"] += generator.choices(judged["train"], k=n_train - n_distinct)
    ids = _number_passages(domain, n_passages, n_dev, generator)
    rows = [f"{ids[place]}\t{domain.write_passage(words)}" for place, words in enumerate(chosen)]
    order = sorted(range(n_passages), key=ids.__getitem__)
    size = ceil(n_passages / domain.parts)
    for part in range(domain.parts):
        name = "corpus.tsv" if domain.parts == 1 else f"corpus_split_{part + 1}.tsv"
        write_lines(folder / name, [rows[place] for place in order[part * size : (part + 1) * size]])
    for split, places in judged.items():
        keys = range(domain.query_start[split], domain.query_start[split] + len(places))
        queries = [domain.write_query(chosen[place]) for place in places]
        write_lines(folder / f"{split}.query.txt", map("{}\t{}".format, keys, queries))
        relevant = [ids[place] for place in places]
        write_lines(folder / f"qrels.{split}.tsv", map("{}\t0\t{}\t1".format, keys, relevant))


def _number_passages(domain: _Domain, n_passages: int, n_dev: int, generator: Random) -> list[int]:
    """Draw increasing ids with gaps; the first passages are those of the dev split."""
    steps = [generator.randint(1, domain.passage_step) for _ in range(n_passages)]
    ids = [1 + sum(steps[:place]) for place in range(n_passages)]
    if domain.dev_start is not None:
        return [domain.dev_start + place for place in range(n_dev)] + ids[: n_passages - n_dev]
    generator.shuffle(ids)
    return ids
