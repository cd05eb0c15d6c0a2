//! Options that contradict each other.

use candle_core::{DType, Device, Tensor};
use peft_lora::{Bias, Error, InitLoraWeights, LoraBuilder, LoraConfig};
use train_ops::LayerBuilder as _;

use crate::common::{Net, config, fixture};

#[test]
fn options_that_contradict_each_other_are_refused() {
    let dora = || LoraConfig { use_dora: true, ..config(["query"]) };
    let pissa = || LoraConfig { init_lora_weights: InitLoraWeights::Pissa, ..config(["query"]) };
    for (config, expected) in [
        (LoraConfig { lora_bias: true, ..dora() }, "option lora_bias: cannot be combined with use_dora"),
        (
            LoraConfig { lora_bias: true, ..pissa() },
            "option lora_bias: needs init_lora_weights to be true or false",
        ),
        (LoraConfig { use_dora: true, ..pissa() }, "option use_dora: cannot be combined with PiSSA or OLoRA"),
        (LoraConfig { lora_alpha: -1.0, ..pissa() }, "option lora_alpha: must be positive with PiSSA"),
        (
            LoraConfig { use_rslora: true, rank_pattern: vec![("query".into(), 2)], ..pissa() },
            "option use_rslora: with rank_pattern or alpha_pattern cannot be combined with PiSSA or OLoRA",
        ),
        (
            LoraConfig { bias: Bias::All, modules_to_save: vec!["head".into()], ..config(["query"]) },
            "option bias: \"all\" cannot be combined with modules_to_save",
        ),
        (LoraConfig { modules_to_save: vec![String::new()], ..config(["query"]) }, "holds an empty name"),
    ] {
        let error = LoraBuilder::new(config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let finish = |config| {
        let mut builder = LoraBuilder::new(config).unwrap();
        Net::build(&mut builder, DType::F32).unwrap();
        builder.finish().unwrap_err()
    };
    let error = finish(LoraConfig { r: 9, ..pissa() }).to_string();
    assert!(
        error.starts_with("blocks.0.query: a rank of 9 is more than") && error.contains("at most 8"),
        "{error}"
    );
    let error = finish(LoraConfig { modules_to_save: vec!["haed".into()], ..config(["query"]) }).to_string();
    assert!(error.starts_with("modules_to_save: haed matches no module; the model has head"), "{error}");

    let mut builder = LoraBuilder::new(dora()).unwrap();
    builder.linear("query", Tensor::new(&[[1f32, 2.], [0., 0.]], &Device::Cpu).unwrap(), None).unwrap();
    let error = builder.finish().unwrap_err();
    assert!(matches!(&error, Error::ZeroRow { path, row: 1 } if path == "query"), "{error}");

    let error = LoraBuilder::from_pretrained(fixture("variants/pissa_niter_16")).unwrap_err();
    assert!(
        matches!(&error, Error::RandomInitialisation { init, .. } if init == "pissa_niter_16"),
        "{error}"
    );
}
