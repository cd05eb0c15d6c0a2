/// Returns the steps of the checkpoints to delete: the oldest, so that `limit` remain besides the newest (needed to resume)
/// and the best (loaded at the end). `saved` is in ascending order.
///
/// In transformers these two count towards the limit, so `save_total_limit = 1` can delete one of them.
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
    fn the_oldest_are_deleted_first() {
        assert_eq!(expired(&[10, 20, 30, 40], Some(40), Some(1)), [10, 20]);
        assert_eq!(expired(&[10, 20, 30], None, Some(2)), [0; 0]);
    }

    #[test]
    fn the_newest_and_the_best_do_not_count_towards_the_limit() {
        assert_eq!(expired(&[10, 20, 30, 40], Some(10), Some(1)), [20]);
        assert_eq!(expired(&[10, 20, 30, 40], Some(20), Some(2)), [0; 0]);
    }

    #[test]
    fn a_limit_of_zero_keeps_the_newest_and_the_best() {
        assert_eq!(expired(&[10, 20, 30], Some(10), Some(0)), [20]);
        assert_eq!(expired(&[10, 20, 30], Some(30), Some(0)), [10, 20]);
    }

    #[test]
    fn a_best_without_a_checkpoint_protects_none() {
        assert_eq!(expired(&[10, 20], Some(15), Some(0)), [10]);
    }
}
