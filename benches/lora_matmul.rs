//! The LoRA linear layer, forward and backward: the operation alone, the same in candle's graph, its parts,
//! and candle's own operations. In a graph, every edge clears a tensor and adds to it; fused transformer
//! layers avoid that.
//!
//! `cargo bench --bench lora_matmul` prints a table of times and of shares of the processor's measured peak,
//! then runs criterion on the recipe's shapes. `-- --test` prints the table once, with few repetitions.

// A bench may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "common/mod.rs"]
mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use criterion::{Criterion, Throughput};
use train_ops::{
    AdaptedLinear, Dropout, ForwardContext, FrozenLinear, LinearLayer, LoraWeights, lora_linear, peak_flops,
    sample_key,
};

/// Rows of a batch of 2 and of a whole accumulation group; input and output features of the decoder's layers.
const ROWS: [usize; 2] = [426, 1704];
const FEATURES: [(usize, usize); 3] = [(768, 768), (768, 3072), (3072, 768)];

/// How the frozen weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    F32,
    Bf16,
    /// Multiplied as integers, on the CPU. Candle's own operations use the weight in f32.
    Int8,
}

struct Layer {
    rows: usize,
    rank: usize,
    xs: Var,
    weight: Tensor,
    base: FrozenLinear,
    a: Var,
    b: Var,
    dropout: Dropout,
    ctx: ForwardContext,
}

impl Layer {
    fn new(rows: usize, (n_in, n_out): (usize, usize), rank: usize, base: Base, device: &Device) -> Self {
        let dtype = if base == Base::Bf16 { DType::BF16 } else { DType::F32 };
        let weight = common::values(1, (n_out, n_in), device).to_dtype(dtype).unwrap();
        let bias = common::values(2, n_out, device);
        let var =
            |seed, shape: (usize, usize)| Var::from_tensor(&common::values(seed, shape, device)).unwrap();
        let frozen = FrozenLinear::new("layer", weight.clone(), Some(bias)).unwrap();
        Self {
            rows,
            rank,
            xs: var(3, (rows, n_in)),
            base: match base {
                Base::Int8 => frozen.to_int8_products().unwrap(),
                _ => frozen,
            },
            weight,
            a: var(4, (rank, n_in)),
            b: var(5, (n_out, rank)),
            dropout: Dropout::new("layer", 0.05).unwrap(),
            ctx: ForwardContext::training([sample_key(1, 2, 0), sample_key(1, 2, 1)]),
        }
    }

    /// Required floating-point operations of a variant of the layer, forward and backward, without the
    /// gradient of its frozen weight.
    fn flops(&self, variant: &str) -> f64 {
        let (n_in, n_out) = (self.base.in_features(), self.base.out_features());
        let rank = if variant == BASE { 0 } else { self.rank };
        (4 * self.rows * n_in * n_out + 6 * self.rows * rank * (n_in + n_out)) as f64
    }

    fn lora(&self) -> LoraWeights<'_> {
        LoraWeights { a: &self.a, b: &self.b, scale: 2.0, dropout: &self.dropout }
    }

    /// Median seconds of the operation alone, forward and backward, as in a transformer layer. CPU only.
    fn operation(&self, runs: usize) -> Option<f64> {
        let layer = AdaptedLinear::new(&self.base, Some(self.lora())).unwrap();
        let xs: Vec<f32> = self.xs.flatten_all().ok()?.to_vec1().unwrap();
        let dys = common::values(6, self.rows * self.base.out_features(), &Device::Cpu).to_vec1().unwrap();
        let (mut ys, mut dxs) = (vec![0.0; dys.len()], vec![0.0; xs.len()]);
        let mut run = || {
            let dims = [self.rows, self.base.in_features()];
            layer.forward_backward((&xs, &dims), &mut ys, &dys, &mut dxs, &self.ctx).map(drop)
        };
        run().ok()?;
        common::median_seconds(&Device::Cpu, runs, || run().map_err(candle_core::Error::wrap)).ok()
    }

    fn fused(&self) -> Result<Tensor> {
        lora_linear(&self.xs, &self.base, self.lora(), &self.ctx).map_err(candle_core::Error::wrap)
    }

    /// The same from separate operations, each with its own backward pass.
    fn unfused(&self) -> Result<Tensor> {
        let base = self.base.forward(&self.xs, &self.ctx).map_err(candle_core::Error::wrap)?;
        let dropped = self.dropout.forward(&self.xs, &self.ctx).map_err(candle_core::Error::wrap)?;
        base + (dropped.matmul(&self.a.t()?)?.matmul(&self.b.t()?)? * 2.0)?
    }

    fn dense(&self) -> Result<Tensor> {
        self.base.forward(&self.xs, &self.ctx).map_err(candle_core::Error::wrap)
    }

    /// Candle's own operations, which also compute the gradient of the frozen weight.
    fn candle(&self) -> Result<Tensor> {
        let dropped = self.dropout.forward(&self.xs, &self.ctx).map_err(candle_core::Error::wrap)?;
        let base = self.xs.to_dtype(self.weight.dtype())?.matmul(&self.weight.t()?)?.to_dtype(DType::F32)?;
        base + (dropped.matmul(&self.a.t()?)?.matmul(&self.b.t()?)? * 2.0)?
    }
}

type Variant = (&'static str, fn(&Layer) -> Result<Tensor>);
/// The variant without an adapter.
const BASE: &str = "base alone";
const VARIANTS: [Variant; 4] = [
    ("in a graph", Layer::fused),
    ("unfused", Layer::unfused),
    (BASE, Layer::dense),
    ("candle", Layer::candle),
];

fn main() -> Result<()> {
    common::use_threads();
    let device = common::device();
    let quick = std::env::args().any(|argument| argument == "--test");
    for base in [Base::F32, Base::Bf16, Base::Int8] {
        if base == Base::Int8 && !device.is_cpu() {
            continue;
        }
        let peak = peak_flops(base == Base::Bf16, 5).expect("an instruction set of this processor");
        println!("\n{base:?}, peak {:.0} GFLOP/s; forward + backward in ms, share of peak", peak / 1e9);
        println!(
            "{:>6} {:>6} {:>6} {:>3}  {}",
            "rows",
            "in",
            "out",
            "r",
            ["operation"]
                .into_iter()
                .chain(VARIANTS.map(|(name, _)| name))
                .map(|name| format!("{name:>18}"))
                .collect::<String>()
        );
        let ranks =
            |rows, features| if (rows, features) == (426, (768, 768)) { &[4, 16, 64][..] } else { &[16] };
        for rows in ROWS {
            for features in FEATURES {
                for &rank in ranks(rows, features) {
                    let layer = Layer::new(rows, features, rank, base, &device);
                    let runs = if quick { 1 } else { 15 };
                    let cell = |variant: &str, seconds: Option<f64>| {
                        let Some(seconds) = seconds else { return format!("{:>18}", "-") };
                        // The peak is that of the CPU.
                        let share = 100.0 * layer.flops(variant) / seconds / peak;
                        let share = if device.is_cpu() { format!("({share:>3.0} %)") } else { String::new() };
                        format!("{:>10.2} {share:>7}", 1e3 * seconds)
                    };
                    let in_graphs = VARIANTS.map(|(name, forward)| {
                        let step = || forward(&layer)?.sum_all()?.backward().map(drop);
                        cell(name, common::median_seconds(&device, runs, step).ok())
                    });
                    let operation = cell("operation", layer.operation(runs));
                    let cells = in_graphs.join("");
                    println!("{rows:>6} {:>6} {:>6} {rank:>3}  {operation}{cells}", features.0, features.1);
                }
            }
        }
    }
    if quick {
        return Ok(());
    }
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    for features in FEATURES {
        let layer = Layer::new(ROWS[0], features, 16, Base::F32, &device);
        let mut group = criterion.benchmark_group(format!("lora_matmul/{}x{}", features.0, features.1));
        for (name, forward) in VARIANTS {
            group.throughput(Throughput::Elements(layer.flops(name) as u64));
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    let gradients = forward(&layer).unwrap().sum_all().unwrap().backward().unwrap();
                    device.synchronize().unwrap();
                    gradients
                })
            });
        }
    }
    criterion.final_summary();
    Ok(())
}
