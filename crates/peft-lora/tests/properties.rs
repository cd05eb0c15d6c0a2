//! Properties over random configurations and shapes.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use candle_core::{Device, Tensor};
use peft_lora::{InitLoraWeights, LoraBuilder, LoraConfig, Modules};
use proptest::collection::vec;
use proptest::prelude::*;
use train_ops::{ForwardContext, LayerBuilder};

fn name() -> impl Strategy<Value = String> {
    "[a-z_0-9.*\\\\\"é]{1,12}"
}

fn modules() -> impl Strategy<Value = Modules> {
    prop_oneof![vec(name(), 0..4).prop_map(Modules::Names), name().prop_map(Modules::Regex)]
}

/// A whole number of thousandths: serde_json may change the last of 17 digits.
fn decimal(thousandths: std::ops::Range<i32>) -> impl Strategy<Value = f64> {
    thousandths.prop_map(|number| f64::from(number) / 1e3)
}

/// Patterns in random order, without duplicates.
fn patterns<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<(String, T)>> {
    vec((name(), value), 0..5).prop_map(|mut entries| {
        let mut seen = std::collections::HashSet::new();
        entries.retain(|(pattern, _)| seen.insert(pattern.clone()));
        entries
    })
}

prop_compose! {
    fn config()(
        r in 1usize..512,
        (lora_alpha, lora_dropout) in (decimal(-1_000_000..1_000_000), decimal(0..1000)),
        target_modules in modules(),
        exclude_modules in proptest::option::of(modules()),
        rank_pattern in patterns(1usize..99),
        alpha_pattern in patterns(decimal(1..99_000)),
        layers_to_transform in vec(0usize..99, 0..4),
        layers_pattern in vec(name(), 0..3),
        use_rslora in any::<bool>(),
        init in 0..3,
        task_type in proptest::option::of(name()),
    ) -> LoraConfig {
        LoraConfig {
            r, lora_alpha, lora_dropout, target_modules, exclude_modules, rank_pattern, alpha_pattern,
            layers_to_transform, layers_pattern, use_rslora, task_type,
            init_lora_weights: match init {
                0 => InitLoraWeights::Default,
                1 => InitLoraWeights::Gaussian,
                _ => InitLoraWeights::Random,
            },
            ..LoraConfig::default()
        }
    }
}

proptest! {
    #[test]
    fn configurations_survive_json_with_the_order_of_their_patterns(config in config()) {
        let json = serde_json::to_string_pretty(&config).unwrap();
        prop_assert_eq!(serde_json::from_str::<LoraConfig>(&json).unwrap(), config);
    }

    #[test]
    fn merging_preserves_a_layers_output(
        (rows, in_features, out_features, r) in (1usize..9, 1usize..40, 1usize..40, 1usize..20),
        lora_alpha in 0.1..40.0f64,
        seed in any::<u64>(),
    ) {
        let config = LoraConfig {
            r,
            lora_alpha,
            target_modules: ["layer"].into(),
            init_lora_weights: InitLoraWeights::Random,
            ..LoraConfig::default()
        };
        let mut builder = LoraBuilder::new(config).unwrap().seed(seed);
        let waves = |rows: usize, columns: usize| {
            let places = Tensor::arange(0f32, (rows * columns) as f32, &Device::Cpu).unwrap();
            places.affine(7.3, (seed % 97) as f64).unwrap().sin().unwrap().reshape((rows, columns)).unwrap()
        };
        let layer = builder.linear("layer", waves(out_features, in_features), None).unwrap();
        let adapter = builder.finish().unwrap();
        let run = || layer.forward(&waves(rows, in_features), &ForwardContext::inference()).unwrap();
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();

        let apart = run();
        adapter.merge().unwrap();
        let merged = run();
        adapter.unmerge().unwrap();
        prop_assert_eq!(values(&run()), values(&apart));
        // The sum of absolute terms bounds the rounding error of another summation order.
        let weight = adapter.layers().next().unwrap().merged_weight().unwrap();
        let terms = waves(rows, in_features).abs().unwrap().matmul(&weight.abs().unwrap().t().unwrap()).unwrap();
        let bound = terms.max_all().unwrap().to_scalar::<f32>().unwrap().max(lora_alpha as f32) * 1e-6;
        for (apart, merged) in values(&apart).into_iter().zip(values(&merged)) {
            prop_assert!((apart - merged).abs() <= bound, "{} and {}, bound {}", apart, merged, bound);
        }
    }
}
