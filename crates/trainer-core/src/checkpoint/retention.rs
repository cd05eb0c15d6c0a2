/// Which checkpoints to remove so that `limit` remain besides the newest, which a run resumes from, and the best, which
/// it may end with: the oldest, by step.
///
/// In transformers those two count towards the limit, and so `save_total_limit = 1` can lose the one or the other.
///
/// `saved` is in ascending order.
pub(crate) fn expired(saved: &[usize], best: Option<usize>, limit: Option<usize>) -> Vec<usize> {
    let Some(limit) = limit else { return Vec::new() };
    let removable = saved.iter().copied().filter(|step| Some(step) != saved.last() && Some(*step) != best);
    removable.clone().take(removable.count().saturating_sub(limit)).collect()
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
        assert_eq!(expired(&[10, 20, 30, 40], Some(40), Some(1)), [10, 20]);
        assert_eq!(expired(&[10, 20, 30], None, Some(2)), [0; 0]);
    }

    #[test]
    fn the_newest_and_the_best_do_not_count() {
        assert_eq!(expired(&[10, 20, 30, 40], Some(10), Some(1)), [20]);
        assert_eq!(expired(&[10, 20, 30, 40], Some(20), Some(2)), [0; 0]);
    }

    #[test]
    fn a_limit_of_nothing_keeps_the_newest_and_the_best() {
        assert_eq!(expired(&[10, 20, 30], Some(10), Some(0)), [20]);
        assert_eq!(expired(&[10, 20, 30], Some(30), Some(0)), [10, 20]);
    }

    #[test]
    fn a_best_that_was_never_saved_protects_nothing() {
        assert_eq!(expired(&[10, 20], Some(15), Some(0)), [10]);
    }
}
