//! The kernels compiled for CUDA.

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod compiled {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// The PTX of a [`Launch::module`](crate::Launch::module), or `None` for a module that does not exist.
pub fn of_module(module: &str) -> Option<&'static str> {
    Some(match module {
        "activation" => compiled::ACTIVATION,
        "attention_backward_key" => compiled::ATTENTION_BACKWARD_KEY,
        "attention_backward_query" => compiled::ATTENTION_BACKWARD_QUERY,
        "attention_forward" => compiled::ATTENTION_FORWARD,
        "cache_write" => compiled::CACHE_WRITE,
        "cross_entropy" => compiled::CROSS_ENTROPY,
        "decoding_attention" => compiled::DECODING_ATTENTION,
        "dropout" => compiled::DROPOUT,
        "int8_product" => compiled::INT8_PRODUCT,
        "lora" => compiled::LORA,
        "lora_gradient" => compiled::LORA_GRADIENT,
        "optimizer" => compiled::OPTIMIZER,
        "residual_norm" => compiled::RESIDUAL_NORM,
        "row_add" => compiled::ROW_ADD,
        "row_copy" => compiled::ROW_COPY,
        "tensor_copy" => compiled::TENSOR_COPY,
        "top_candidates" => compiled::TOP_CANDIDATES,
        _ => return None,
    })
}

/// The value of a directive such as `.target` in the head of PTX.
pub(crate) fn directive(ptx: &'static str, name: &str) -> &'static str {
    let value = |line: &'static str| line.strip_prefix(name).map(str::trim);
    ptx.lines().find_map(value).filter(|value| !value.is_empty()).unwrap_or("unknown")
}
