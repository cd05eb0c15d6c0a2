use crate::{Event, LogEntry};

/// The values of an event that belong to curves, with the number of completed steps. The names (`train/loss`, `eval/loss`, …)
/// are those of Hugging Face's TensorBoard callback.
pub(super) fn scalars(event: &Event) -> Option<(usize, Vec<(String, f64)>)> {
    let named =
        |values: &[(&str, f64)]| values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    match event {
        Event::Log(LogEntry::Train { loss, grad_norm, learning_rate, epoch, step }) => {
            let values = [
                ("train/loss", *loss),
                ("train/grad_norm", *grad_norm),
                ("train/learning_rate", *learning_rate),
                ("train/epoch", *epoch),
            ];
            Some((*step, named(&values)))
        }
        Event::Log(LogEntry::Evaluation { eval_loss, metrics, step, .. }) => {
            let mut values = vec![("eval/loss".to_owned(), *eval_loss)];
            values.extend(metrics.iter().map(|(name, value)| (name.replacen("eval_", "eval/", 1), *value)));
            Some((*step, values))
        }
        Event::Throughput(throughput) => {
            let values = throughput.values().into_iter();
            let values = values.map(|(metric, value)| (format!("train/{}", metric.name), value));
            Some((throughput.global_step, values.collect()))
        }
        _ => None,
    }
}
