"""A listwise reranker: a passage scores by its own vector and by its agreement with the list."""

from itertools import groupby

import torch
from sentence_transformers.base.modules import Module, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from fletching import Reranker


class QuiverHead(Module):
    """Scores the passages of each list."""

    config_keys = ["dimension"]
    forward_kwargs = {"list_sizes"}

    def __init__(self, dimension):
        super().__init__()
        self.dimension = dimension
        self.direction = nn.Parameter(torch.linspace(-1, 1, dimension))

    def score(self, vectors):
        return ((vectors.mean(dim=0) + self.direction) * vectors).mean(dim=-1, keepdim=True)

    def forward(self, features, list_sizes):
        lists = features["sentence_embedding"].split(list_sizes)
        features["scores"] = torch.cat([self.score(vectors) for vectors in lists])
        return features

    def save(self, output_path, *args, safe_serialization=True, **kwargs):
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        config = cls.load_config(model_name_or_path, subfolder=subfolder)
        return cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=cls(**config))


class QuiverReranker(Reranker):
    """Ranks a list by agreement."""

    listwise = True
    num_labels = 1

    @classmethod
    def from_encoder(cls, folder, **options):
        backbone = Transformer(folder)
        dimension = backbone.get_embedding_dimension()
        return cls(modules=[backbone, Pooling(dimension, "mean"), QuiverHead(dimension)], **options)

    def preprocess(self, inputs, prompt=None, **kwargs):
        features = super().preprocess(inputs, prompt=prompt, **kwargs)
        features["list_sizes"] = [len([*pairs]) for _, pairs in groupby(inputs, key=lambda pair: pair[0])]
        return features

    def forward(self, features, **kwargs):
        return super().forward(features, list_sizes=features.pop("list_sizes"), **kwargs)

    def encode_rows(self, features, **kwargs):
        transformer, pooling, _ = self
        rows = {name: value for name, value in features.items() if name != "list_sizes"}
        return pooling(transformer(rows))["sentence_embedding"]

    def score_lists(self, encoded, list_sizes):
        return torch.cat([self[-1].score(vectors) for vectors in encoded.split([*list_sizes])])
