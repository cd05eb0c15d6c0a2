//! The values of flags that are words, with their help texts.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::options::{
    CheckRows, Distributed, Drafting, Dtype, EarlyStopping, EvalStrategy, FeatureDtype, FileDtype,
    LrSchedulerType, NanPolicy, OnBadRow, Optim, Padding, ReportTo, SaveStrategy, SplitBy, Storage, Tune,
};

/// Makes an enum of the options the values of a flag: each value's help text, after the name by which other programs know it.
macro_rules! values {
    ($kind:ident { $($value:ident $([$alias:literal])? => $help:literal,)+ }) => {
        impl ValueEnum for $kind {
            fn value_variants<'a>() -> &'a [Self] {
                Self::ALL
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                let value = PossibleValue::new(self.name());
                Some(match self {
                    $(Self::$value => value.help($help)$(.alias($alias))?,)+
                })
            }
        }
    };
}

values!(Dtype {
    F32 => "32 bits",
    Bf16 => "bfloat16 for the frozen weights: half the memory; adapters and optimizer stay f32",
    Int8 => "8-bit integers for the frozen weights and for the inputs of their products: the fastest, and a quarter of the memory; \
             adapters and optimizer stay f32. Needs --device cpu",
});

values!(FeatureDtype {
    F32 => "32 bits: the encoder's numbers",
    Bf16 => "bfloat16: half the size",
});

values!(Distributed {
    None => "Each process trains alone",
    Mpi => "All processes of the MPI job train one model",
    Nccl => "The same, each with its own GPU; gradients are sent from GPU to GPU by NVIDIA's NCCL",
});

values!(Padding {
    Longest => "The longest caption of the batch",
    MaxLength => "The model's maximum: slower, with the same loss",
});

values!(Tune {
    Text => "Adapters in the text decoder",
    Vision => "Adapters in the vision encoder",
    Both => "Adapters in both",
    Full => "All weights, without adapters",
});

values!(LrSchedulerType {
    Linear => "Linear decay to 0",
    Cosine => "Decay to 0 along half a cosine",
    CosineWithRestarts["cosine_with_restarts"] =>
        "--lr-num-cycles times decay to 0 along half a cosine, starting from the highest value each time",
    Polynomial => "Decay to 0 as the remaining share of steps, to the power --lr-power",
    Constant["constant_with_warmup"] => "Constant",
    WarmupStableDecay["warmup_stable_decay"] =>
        "Constant, with decay to 0 along half a cosine in the last --lr-decay-ratio of the steps",
});

values!(Optim {
    Adamw["adamw_torch"] => "AdamW",
    Sgd => "Stochastic gradient descent",
});

values!(NanPolicy {
    Stop => "Stop the run with an error that names the step",
    Skip => "Skip the step with a warning",
});

values!(ReportTo {
    Csv => "log.csv: step,metric,value",
    Tensorboard => "tensorboard/: event files",
});

values!(EvalStrategy {
    Epoch => "After every epoch; the best checkpoint is used at the end",
    Steps => "After every --eval-steps steps; the best checkpoint is used at the end",
    No => "Never; the final weights are used at the end",
});

values!(SaveStrategy {
    Epoch => "After every epoch",
    Steps => "After every --save-steps steps",
    No => "Never otherwise",
});

values!(CheckRows {
    All => "Every row",
    Sample => "About a thousand rows of all parts of the dataset; a run stops at another that it cannot use",
});

values!(OnBadRow {
    Stop => "List them and stop before training",
    Skip => "Leave them out and list them in skipped_rows.jsonl",
});

values!(SplitBy {
    Row => "Rows",
    Picture => "Pictures, each with all of its rows, so that no test picture is trained on; rows with the same picture \
        and the same prompt become one row with several captions",
});

values!(EarlyStopping {
    True => "As soon as there are as many finished captions as beams",
    False => "When no live beam is likely to beat the finished captions",
    Never => "When no live beam can beat the finished captions",
});

values!(Drafting {
    Auto => "Where it is faster: up to four beams or draws at a time with f32 weights, one with bf16, if the \
        weights exceed the processor's caches",
    Always => "With f32 or bf16 weights, for any number of beams or draws",
    Never => "Never",
});

values!(Storage {
    F32 => "32 bits",
    Bf16 => "bfloat16: half the memory; activations are rounded too",
    Int8 => "8-bit integers and a scale per output, quantised when the checkpoint is read: a quarter of the memory, \
        sums in f32",
});

values!(FileDtype {
    F32 => "32 bits",
    Bf16 => "bfloat16: 16 bits, with the range of f32",
    F16 => "16 bits, with numbers up to 65,504",
});
