//! The LoRA linear layer, forward and backward: the operation alone, the same in candle's graph, its parts,
//! and candle's own operations. In a graph, every edge clears a tensor and adds to it; fused transformer
//! layers avoid that.
//!
//! `cargo bench --bench lora_matmul` prints a table of times and of shares of the processor's measured peak,
//! then runs criterion on the recipe's shapes. `-- --table` prints the table alone, and `-- --test` too, with few
//! repetitions. On a GPU, lines that begin with "lora" are for `benches/cuda/summary`.

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

    /// Median seconds of the operation alone, forward and backward, as in a transformer layer; `None` on a GPU.
    fn operation(&self, runs: usize) -> Option<f64> {
        if !self.xs.device().is_cpu() {
            return None;
        }
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

/// Times of the operation, which is only for the CPU, and of [`VARIANTS`], in seconds; `None` for what failed.
fn measure(layer: &Layer, runs: usize) -> (Option<f64>, [Option<f64>; VARIANTS.len()]) {
    let in_graphs = VARIANTS.map(|(name, forward)| {
        let step = || forward(layer)?.sum_all()?.backward().map(drop);
        let seconds = common::median_seconds(layer.xs.device(), runs, step);
        seconds.inspect_err(|error| println!("{name}: {error}")).ok()
    });
    (layer.operation(runs), in_graphs)
}

/// Prints the rows of the table for one storage of the frozen weight.
fn table(base: Base, device: &Device, runs: usize) {
    let peak = peak_flops(base == Base::Bf16, 5).expect("an instruction set of this processor");
    let share = format!(", share of a peak of {:.0} GFLOP/s", peak / 1e9);
    println!("\n{base:?}; forward + backward in ms{}", if device.is_cpu() { &share } else { "" });
    let names = ["operation"].into_iter().chain(VARIANTS.map(|(name, _)| name));
    let names: String = names.map(|name| format!("{name:>18}")).collect();
    println!("{:>6} {:>6} {:>6} {:>3}  {names}", "rows", "in", "out", "r");
    for (rows, features) in ROWS.into_iter().flat_map(|rows| FEATURES.map(|features| (rows, features))) {
        let ranks = if (rows, features) == (426, (768, 768)) { &[4, 16, 64][..] } else { &[16] };
        for &rank in ranks {
            let layer = Layer::new(rows, features, rank, base, device);
            let (operation, in_graphs) = measure(&layer, runs);
            let cell = |variant: &str, seconds: Option<f64>| {
                let Some(seconds) = seconds else { return format!("{:>18}", "-") };
                // The peak is that of the CPU.
                let share = 100.0 * layer.flops(variant) / seconds / peak;
                let share = if device.is_cpu() { format!("({share:>3.0} %)") } else { String::new() };
                format!("{:>10.2} {share:>7}", 1e3 * seconds)
            };
            let operation = cell("operation", operation);
            let cells: String =
                VARIANTS.iter().zip(in_graphs).map(|((name, _), seconds)| cell(name, seconds)).collect();
            println!("{rows:>6} {:>6} {:>6} {rank:>3}  {operation}{cells}", features.0, features.1);
            if !device.is_cpu() {
                summary(&layer, base, in_graphs);
            }
        }
    }
}

/// The row of the table for `benches/cuda/summary`.
fn summary(layer: &Layer, base: Base, seconds: [Option<f64>; VARIANTS.len()]) {
    let (base, rows, rank) = (format!("{base:?}").to_lowercase(), layer.rows, layer.rank);
    let time = |((name, _), seconds): (&Variant, Option<f64>)| match seconds {
        Some(seconds) => format!("{name} {:.3} ms", 1e3 * seconds),
        None => format!("{name} failed"),
    };
    let times: Vec<String> = VARIANTS.iter().zip(seconds).map(time).collect();
    let (n_in, n_out) = (layer.base.in_features(), layer.base.out_features());
    println!("lora {base}, {rows} x {n_in} x {n_out}, rank {rank}: {}", times.join(", "));
}

fn main() -> Result<()> {
    common::use_threads();
    let device = common::device();
    let asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    for base in [Base::F32, Base::Bf16, Base::Int8] {
        if base != Base::Int8 || device.is_cpu() {
            table(base, &device, if asked("--test") { 1 } else { 15 });
        }
    }
    if asked("--test") || asked("--table") {
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
