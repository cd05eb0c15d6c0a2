/// Which checkpoints to remove so that at most `limit` remain, by step: the oldest, but never the newest, which a run
/// resumes from, nor the best.
///
/// The newest and the best count towards the limit, as in transformers.
///
/// `saved` is in ascending order.
pub(crate) fn expired(saved: &[usize], best: Option<usize>, limit: Option<usize>) -> Vec<usize> {
    let Some(limit) = limit else { return Vec::new() };
    let removable = saved.iter().copied().filter(|step| Some(step) != saved.last() && Some(*step) != best);
    removable.take(saved.len().saturating_sub(limit)).collect()
}

#[cfg(test)]
mod tests {
    use super::expired;

    #[test]
    fn without_a_limit_everything_is_kept() {
        assert_eq!(expired(&[1, 2, 3], Some(1), None), [0; 0]);
    }

    #[test]
    fn the_oldest_go_first() {
        assert_eq!(expired(&[10, 20, 30, 40], Some(40), Some(2)), [10, 20]);
        assert_eq!(expired(&[10, 20], None, Some(2)), [0; 0]);
    }

    #[test]
    fn the_best_stays_and_counts() {
        assert_eq!(expired(&[10, 20, 30, 40], Some(10), Some(2)), [20, 30]);
        assert_eq!(expired(&[10, 20, 30, 40], Some(20), Some(3)), [10]);
    }

    #[test]
    fn the_newest_and_the_best_stay_even_if_they_are_more_than_the_limit() {
        assert_eq!(expired(&[10, 20, 30], Some(10), Some(1)), [20]);
    }

    #[test]
    fn a_best_that_was_never_saved_protects_nothing() {
        assert_eq!(expired(&[10, 20], Some(15), Some(1)), [10]);
    }
}
