//! Options as flags, which describe a run that was begun without a command line.

use std::ffi::OsString;

use super::{Finetune, Flags, peft_name};
use crate::hub::Location;

/// A flag's name without dashes, and its values: none for a switch.
type Given = (&'static str, Vec<OsString>);

impl From<&Finetune> for Flags {
    /// Every option as a flag. A flag counts as given if it differs from the recipe.
    fn from(options: &Finetune) -> Self {
        let recipe = flags(&Finetune::default());
        let mut record = Self::default();
        for flag in flags(options) {
            let is_given = !recipe.contains(&flag);
            let (name, values) = flag;
            record.insert(name, values, is_given);
        }
        record
    }
}

fn flags(options: &Finetune) -> Vec<Given> {
    let parts = [
        data(options),
        training(options),
        optimizer(options),
        run(options),
        lora(options),
        hardware(options),
    ];
    parts.into_iter().flatten().flatten().collect()
}

fn data(options: &Finetune) -> Vec<Option<Given>> {
    // The output folder is that of one command, and not recorded.
    let data = &options.data;
    vec![
        Some(("model", vec![location(&data.model)])),
        Some(("dataset", vec![location(&data.dataset)])),
        maybe("image-column", data.image_column.as_ref()),
        maybe("caption-column", data.caption_column.as_ref()),
        maybe("prompt-column", data.prompt_column.as_ref()),
        maybe("subset", data.subset),
        maybe("check-rows", data.check_rows),
        one("on-bad-row", data.on_bad_row),
        one("max-image-pixels", data.max_image_pixels),
        one("split", data.split),
        maybe("validation", data.validation.as_ref()),
        maybe("test", data.test.as_ref()),
        one("split-seed", data.split_seed),
        one("split-by", data.split_by),
        one("padding", data.padding),
        switch("no-shuffle", data.no_shuffle),
        maybe("shuffle-window", data.shuffle_window),
        maybe("data-cache", data.data_cache),
        maybe("eval-captions", data.eval_captions),
    ]
}

fn training(options: &Finetune) -> Vec<Option<Given>> {
    let training = &options.training;
    vec![
        one("num-train-epochs", training.num_train_epochs),
        maybe("max-steps", training.max_steps),
        maybe("learning-rate", training.learning_rate),
        one("lr-scheduler-type", training.lr_scheduler_type),
        one("warmup-ratio", training.warmup_ratio),
        one("per-device-train-batch-size", training.per_device_train_batch_size),
        one("per-device-eval-batch-size", training.per_device_eval_batch_size),
        one("gradient-accumulation-steps", training.gradient_accumulation_steps),
        one("fuse-accumulation", training.fuse_accumulation),
        one("weight-decay", training.weight_decay),
        one("max-grad-norm", training.max_grad_norm),
        one("label-smoothing-factor", training.label_smoothing_factor),
        one("eval-strategy", training.eval_strategy),
        maybe("save-total-limit", training.save_total_limit),
        one("logging-steps", training.logging_steps),
        one("seed", training.seed),
    ]
}

fn optimizer(options: &Finetune) -> Vec<Option<Given>> {
    let optimizer = &options.optimizer;
    vec![
        one("optim", optimizer.optim),
        maybe("sgd-momentum", optimizer.sgd_momentum),
        maybe("loraplus-lr-ratio", optimizer.loraplus_lr_ratio),
        maybe("min-lr-rate", optimizer.min_lr_rate),
        maybe("lr-num-cycles", optimizer.lr_num_cycles),
        maybe("lr-power", optimizer.lr_power),
        maybe("lr-decay-ratio", optimizer.lr_decay_ratio),
    ]
}

fn run(options: &Finetune) -> Vec<Option<Given>> {
    let run = &options.run;
    let logs: Vec<OsString> = run.report_to.iter().map(|log| log.name().into()).collect();
    vec![
        maybe("eval-steps", run.eval_steps),
        maybe("save-strategy", run.save_strategy),
        maybe("save-steps", run.save_steps),
        maybe("early-stopping-patience", run.early_stopping_patience),
        maybe("early-stopping-threshold", run.early_stopping_threshold),
        maybe("max-time", run.max_time.map(|seconds| format!("{seconds}s"))),
        one("on-nan", run.on_nan),
        maybe("max-skipped-steps", run.max_skipped_steps),
        (!logs.is_empty()).then_some(("report-to", logs)),
    ]
}

fn lora(options: &Finetune) -> Vec<Option<Given>> {
    let lora = &options.lora;
    vec![
        one("tune", lora.tune),
        maybe("lora-r", lora.lora_r),
        maybe("lora-alpha", lora.lora_alpha),
        maybe("lora-dropout", lora.lora_dropout),
        maybe("target-modules", lora.target_modules.as_ref()),
        maybe("init-lora-weights", lora.init_lora_weights.as_ref().map(peft_name)),
        switch("use-rslora", lora.use_rslora),
        switch("use-dora", lora.use_dora),
        switch("lora-bias", lora.lora_bias),
        maybe("bias", lora.bias.as_ref().map(peft_name)),
        (!lora.modules_to_save.is_empty())
            .then(|| ("modules-to-save", vec![lora.modules_to_save.join(",").into()])),
        lora.init_adapter.as_ref().map(|path| ("init-adapter", vec![path.clone().into()])),
        maybe("hidden-dropout", lora.hidden_dropout),
    ]
}

fn hardware(options: &Finetune) -> Vec<Option<Given>> {
    let hardware = &options.hardware;
    vec![
        one("device", hardware.device),
        one("dtype", hardware.dtype),
        maybe("threads", hardware.threads),
        switch("gradient-checkpointing", hardware.gradient_checkpointing),
        hardware.feature_cache_dir.as_ref().map(|dir| ("feature-cache-dir", vec![dir.clone().into()])),
        // Parts of 1024 are exact.
        maybe(
            "feature-cache-memory",
            hardware.feature_cache_memory.map(|bytes| format!("{}KiB", bytes as f64 / 1024.0)),
        ),
        maybe("feature-cache-dtype", hardware.feature_cache_dtype),
        switch("no-feature-cache", hardware.no_feature_cache),
        switch("no-cuda-graph", hardware.no_cuda_graph),
    ]
}

/// A path may not be valid UTF-8.
fn location(location: &Location) -> OsString {
    match location {
        Location::Local(path) => path.clone().into(),
        _ => location.to_string().into(),
    }
}

fn one(name: &'static str, value: impl ToString) -> Option<Given> {
    Some((name, vec![value.to_string().into()]))
}

fn maybe(name: &'static str, value: Option<impl ToString>) -> Option<Given> {
    one(name, value?)
}

fn switch(name: &'static str, is_on: bool) -> Option<Given> {
    is_on.then(|| (name, Vec::new()))
}
