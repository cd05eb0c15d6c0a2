//! The unit of a result, and whether higher or lower is better: shown beside its name on both pages.

/// The unit or range of the result with this key, and whether higher or lower is better (a
/// [`Better`](super::Better) as the templates pass it).
pub(super) fn meaning(key: &str, better: &str) -> String {
    let better = match better {
        "lower" => "lower is better",
        "higher" => "higher is better",
        _ => "neither way is better",
    };
    match unit(key) {
        "" => better.to_owned(),
        unit => format!("{unit}, {better}"),
    }
}

fn unit(key: &str) -> &'static str {
    match key {
        "test_loss" | "eval_loss" => "nats per token",
        "perplexity" => "1 or more",
        "cider_d" => "0 to 10",
        "bleu_1" | "bleu_2" | "bleu_3" | "bleu_4" | "rouge_l" => "0 to 1",
        "sacrebleu" => "0 to 100",
        "wer" => "errors per reference word",
        "cer" => "errors per reference letter",
        "distinct_1" => "share of all words",
        "distinct_2" => "share of all word pairs",
        "mean_length" => "words",
        "exact_repeats" | "repeated_ngrams" => "share of the captions",
        "shuffled_loss_ratio" => "1 if pictures are ignored",
        "train_runtime" => "seconds",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Metrics;

    #[test]
    fn every_result_of_a_run_has_a_unit() {
        let mut metrics = Metrics::default();
        let keys = caption_metrics::score(&["a b"], &[vec!["a b"]]).unwrap().values.into_keys();
        let others = ["test_loss", "perplexity", "shuffled_loss_ratio"];
        metrics.adapter.extend(keys.chain(others).map(|key| (key.to_owned(), Some(1.0))));
        assert_eq!(metrics.rows().len(), 17);
        for row in metrics.rows() {
            assert_ne!(unit(&row.key), "", "{}", row.key);
        }
    }

    #[test]
    fn a_meaning_has_a_unit_and_a_direction() {
        assert_eq!(meaning("test_loss", "lower"), "nats per token, lower is better");
        assert_eq!(meaning("unknown", "higher"), "higher is better");
    }
}
