/// Runs `f` on one of rayon's threads. Many short operations in a row, as in decoding, then share their work with threads that
/// are awake, instead of waking one from outside for each operation.
pub fn on_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
