//! A training step by parts: vision forward, decoder forward, backward, optimizer, and the whole step, with weights in f32, bf16 and
//! int8.
//!
//! `GIT_STEP_CHECKPOINT=path/to/git-base cargo bench --bench git_step`. Without a checkpoint it uses the
//! embedded one, which is far too small for conclusions about git-base. `-- --test` runs every part once. For
//! bf16 and int8 it also prints how far the adapters' gradients are from those in f32: of a new adapter, or of the trained
//! one in the folder `GIT_STEP_ADAPTER`.
//!
//! The types of weights are timed in turns, because neighbours on a shared machine change from second to second: a ratio to f32 is
//! the median of the ratios to the run in f32 directly before.

// A bench may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "git_step/arithmetic.rs"]
mod arithmetic;
#[path = "common/mod.rs"]
mod common;
#[path = "git_step/training.rs"]
mod training;

use std::path::PathBuf;

use arithmetic::flops;
use peft_lora::BaseType;
use train_ops::peak_flops;
use training::{AdapterGradients, BATCH, Part, TOKENS, Training};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    common::use_threads();
    let device = common::device();
    let runs = if std::env::args().any(|argument| argument == "--test") { 1 } else { 9 };
    let dir = match std::env::var_os("GIT_STEP_CHECKPOINT") {
        Some(dir) => PathBuf::from(dir),
        None => caption_lora::embedded::checkpoint().unwrap(),
    };
    println!("checkpoint {}", dir.display());
    let mut bases = vec![BaseType::Stored, BaseType::Bf16];
    if device.is_cpu() {
        bases.push(BaseType::Int8Products);
    }
    let adapter = std::env::var_os("GIT_STEP_ADAPTER").map(PathBuf::from);
    let open = |base| Training::open(&dir, adapter.as_deref(), base, &device);
    let mut cases = bases.into_iter().map(open).collect::<Result<Vec<_>>>()?;
    let exact = cases[0].gradients()?;
    for case in &cases[1..] {
        print_agreement(name(case.base), &exact, &case.gradients()?);
    }
    println!("a batch of {BATCH}, {TOKENS} tokens; medians of {runs} runs, in turns");
    for part in Part::ALL {
        let flops = flops(cases[0].config(), part).filter(|_| device.is_cpu());
        let times = times(&mut cases, part, runs, flops)?;
        print_times(part, &cases, &times);
    }
    Ok(())
}

fn name(base: BaseType) -> &'static str {
    match base {
        BaseType::Bf16 => "bf16",
        BaseType::Int8Products => "int8",
        _ => "f32",
    }
}

/// The medians of one part with one type of weights.
struct Times {
    seconds: f64,
    /// How many times as fast as f32.
    ratio: f64,
    /// The processor's peak, and the share of it. For int8 it is the peak of f32, of which it may exceed 100 %.
    peak: Option<(f64, f64)>,
}

/// Times a part of all cases in turns, after a run of each that is not counted. Each run is compared with the peak directly before
/// and after it.
fn times(cases: &mut [Training], part: Part, runs: usize, flops: Option<f64>) -> Result<Vec<Times>> {
    let peak = |bf16| peak_flops(bf16, 5).expect("an instruction set of this processor");
    for case in &mut *cases {
        case.seconds(part)?;
    }
    // Seconds, ratio, peak and share of every run.
    let mut all = vec![[const { Vec::new() }; 4]; cases.len()];
    for _ in 0..runs {
        let mut of_f32 = None;
        for (case, all) in cases.iter_mut().zip(&mut all) {
            let bf16 = case.base == BaseType::Bf16;
            let before = flops.map(|_| peak(bf16));
            let seconds = case.seconds(part)?;
            all[0].push(seconds);
            all[1].push(*of_f32.get_or_insert(seconds) / seconds);
            if let (Some(flops), Some(before)) = (flops, before) {
                let peak = (before + peak(bf16)) / 2.0;
                all[2].push(peak);
                all[3].push(flops / seconds / peak);
            }
        }
    }
    let times = all.into_iter().map(|[seconds, ratios, peaks, shares]| Times {
        seconds: common::median(seconds),
        ratio: common::median(ratios),
        peak: flops.map(|_| (common::median(peaks), common::median(shares))),
    });
    Ok(times.collect())
}

fn print_times(part: Part, cases: &[Training], times: &[Times]) {
    print!("{:>20}", part.name());
    for (case, Times { seconds, ratio, peak }) in cases.iter().zip(times) {
        print!("  {} {:>8.2} ms", name(case.base), 1e3 * seconds);
        if case.base != BaseType::Stored {
            print!(" ({ratio:.2} times as fast)");
        }
        if let Some((peak, share)) = peak {
            print!(" {:>3.0} % of {:.0} GFLOP/s", 100.0 * share, peak / 1e9);
        }
    }
    println!();
}

/// Prints the smallest and the median cosine of an adapter's gradient with the exact one, and the range of the ratio of their
/// norms.
fn print_agreement(name: &str, exact: &AdapterGradients, gradients: &AdapterGradients) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let of_both = |(exact, got): (&Vec<f32>, &Vec<f32>)| {
        let norms = [exact, got].map(|values| dot(values, values).sqrt());
        (dot(exact, got) / norms[0] / norms[1], norms[1] / norms[0])
    };
    let (mut cosines, mut ratios): (Vec<f64>, Vec<f64>) =
        exact.values().zip(gradients.values()).map(of_both).unzip();
    cosines.sort_by(f64::total_cmp);
    ratios.sort_by(f64::total_cmp);
    println!(
        "gradients of {} matrices in {name} against f32: cosine {:.5} at least, median {:.5}; norm {:.3} to {:.3} times",
        cosines.len(),
        cosines[0],
        cosines[cosines.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
}
