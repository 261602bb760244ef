"""A stand-in for SGLang's compiled CPU kernels, for the tests only.

SGLang imports these names when it starts on CPU, and with the plain torch attention that the tests
choose it never calls them. Should it call one, it fails loudly instead of computing nonsense.
"""

_NAMES = (
    "copy_all_layer_kv_cache_cpu",
    "assign_req_to_token_pool_cpu",
    "build_tree_kernel_efficient_cpu",
    "verify_tree_greedy_cpu",
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
)


def _missing(name):
    def call(*args, **kwargs):
        raise NotImplementedError(f"sgl_kernel.{name}: this stand-in has no kernels")

    return call


globals().update({name: _missing(name) for name in _NAMES})
