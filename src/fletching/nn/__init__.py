"""What acts on a model from outside, whatever its architecture.

- `attention.py`: `attention_mode`, bidirectional or causal attention in any decoder, and the probe for it
- `layers.py`: `before_layers` and `run_to_layer`, hidden states read or changed between layers, early exit
- `depth.py`: `layer_view` and `truncate_layers`, a network of the first layers of another; the final norm
- `views.py`: `view_module`, a module looked at as one of another class, or around other children
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.nn.attention import attention_mode as attention_mode
    from fletching.nn.attention import check_attention_mode as check_attention_mode
    from fletching.nn.attention import find_decoder as find_decoder
    from fletching.nn.depth import check_depth as check_depth
    from fletching.nn.depth import check_num_layers as check_num_layers
    from fletching.nn.depth import copy_structure as copy_structure
    from fletching.nn.depth import count_layers as count_layers
    from fletching.nn.depth import find_final_norm as find_final_norm
    from fletching.nn.depth import layer_view as layer_view
    from fletching.nn.depth import truncate_layers as truncate_layers
    from fletching.nn.layers import before_layers as before_layers
    from fletching.nn.layers import check_layers as check_layers
    from fletching.nn.layers import find_layers as find_layers
    from fletching.nn.layers import run_to_layer as run_to_layer
    from fletching.nn.views import view_module as view_module

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attention_mode": "fletching.nn.attention:attention_mode",
        "before_layers": "fletching.nn.layers:before_layers",
        "check_attention_mode": "fletching.nn.attention:check_attention_mode",
        "check_depth": "fletching.nn.depth:check_depth",
        "check_layers": "fletching.nn.layers:check_layers",
        "check_num_layers": "fletching.nn.depth:check_num_layers",
        "copy_structure": "fletching.nn.depth:copy_structure",
        "count_layers": "fletching.nn.depth:count_layers",
        "find_decoder": "fletching.nn.attention:find_decoder",
        "find_final_norm": "fletching.nn.depth:find_final_norm",
        "find_layers": "fletching.nn.layers:find_layers",
        "layer_view": "fletching.nn.depth:layer_view",
        "run_to_layer": "fletching.nn.layers:run_to_layer",
        "truncate_layers": "fletching.nn.depth:truncate_layers",
        "view_module": "fletching.nn.views:view_module",
    },
)
