//! The real weights of all-MiniLM-L6-v2 in candle-transformers' BERT: embeddings of transformers, before and after a LoRA
//! fine-tuning. The weights are not in the repository; `check_minilm.py` says how to get them, and compares.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::HashMap;
use std::path::PathBuf;

use candle::{D, DType, Device, Result, Tensor, safetensors};
use candle_model_files::models::bert::BertModel;
use candle_nn::{AdamW, ForwardContext, Optimizer, ParamsAdamW, VarBuilder, enter, sample_key};
use peft_lora::{LoraBuilder, LoraConfig};

/// Four sentences, and another way to say each of them.
const IDS: [[u32; 10]; 8] = [
    [101, 1037, 4937, 7719, 2006, 1996, 13523, 1012, 102, 0],
    [101, 1996, 4633, 2003, 3147, 2651, 1012, 102, 0, 0],
    [101, 2002, 3248, 1996, 6710, 2092, 1012, 102, 0, 0],
    [101, 4499, 2024, 2411, 2397, 2182, 1012, 102, 0, 0],
    [101, 1037, 18401, 16626, 2006, 1037, 20452, 1012, 102, 0],
    [101, 2009, 2003, 12809, 2648, 1012, 102, 0, 0, 0],
    [101, 2002, 2003, 1037, 2204, 16609, 1012, 102, 0, 0],
    [101, 1996, 2737, 2003, 6524, 26136, 6593, 8787, 1012, 102],
];

/// The mean of the tokens' last states, of length 1.
fn embeddings(model: &BertModel, ids: &Tensor) -> Result<Tensor> {
    let mask = ids.ne(0u32)?.to_dtype(DType::U32)?;
    let states = model.forward(ids, &ids.zeros_like()?, Some(&mask))?;
    let sums = states.broadcast_mul(&mask.to_dtype(DType::F32)?.unsqueeze(2)?)?.sum(1)?;
    sums.broadcast_div(&sums.sqr()?.sum_keepdim(1)?.sqrt()?)
}

/// Each sentence among all should find its pair: cross entropy of the similarities, with a temperature of 0.2.
fn loss(embeddings: &Tensor) -> Result<Tensor> {
    let (first, second) = (embeddings.narrow(0, 0, 4)?, embeddings.narrow(0, 4, 4)?);
    let similarities = (first.matmul(&second.t()?)? / 0.2)?;
    candle_nn::loss::cross_entropy(&similarities, &Tensor::arange(0u32, 4, embeddings.device())?)
}

#[test]
fn embeddings_of_minilm_before_and_after_a_fine_tuning() {
    let (Some(model), Some(keep)) = (std::env::var_os("MINILM"), std::env::var_os("MINILM_KEEP")) else {
        println!("not run: MINILM and MINILM_KEEP are not set");
        return;
    };
    let (folder, keep) = (PathBuf::from(model), PathBuf::from(keep));
    let config = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    let vb = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap();
    let lora =
        LoraConfig { target_modules: ["query", "value"].into(), lora_dropout: 0.1, ..LoraConfig::default() };
    let lora = LoraBuilder::new(lora).unwrap();
    let (model, lora) = vb.build(lora, |vb| BertModel::load(vb, &config)).unwrap();
    let adapter = lora.finish().unwrap();

    let ids = Tensor::new(&IDS, &Device::Cpu).unwrap();
    let before = embeddings(&model, &ids).unwrap();
    let parameters = adapter.parameters().into_values().collect();
    let mut optimizer = AdamW::new(parameters, ParamsAdamW { lr: 5e-3, ..Default::default() }).unwrap();
    for step in 0..20 {
        let keys: Vec<u64> = (0..8).map(|sample| sample_key(42, step, sample)).collect();
        let _pass = enter(ForwardContext::training(keys));
        optimizer.backward_step(&loss(&embeddings(&model, &ids).unwrap()).unwrap()).unwrap();
    }
    let after = embeddings(&model, &ids).unwrap();
    let [first, last] = [&before, &after].map(|all| loss(all).unwrap().to_scalar::<f32>().unwrap());
    println!("loss {first} before, {last} after");
    assert!(last < 0.8 * first, "{first} {last}");
    assert!(
        after
            .sqr()
            .unwrap()
            .sum(D::Minus1)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .all(|n| (n - 1.0).abs() < 1e-5)
    );

    adapter.save(&keep).unwrap();
    let tensors = HashMap::from([("ids", ids), ("before", before), ("after", after)]);
    safetensors::save(&tensors, keep.join("embeddings.safetensors")).unwrap();
}
