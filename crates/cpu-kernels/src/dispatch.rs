/// Compiles a function on slices once for each instruction set and calls the version for its first argument,
/// `isa`. The body is plain Rust: the compiler vectorises each version with the instructions of its set.
///
/// Every aarch64 target with floating point has NEON, so the portable version is also the one for NEON.
///
/// Without fused multiply-adds, which Rust never introduces by itself, all versions compute the same bits.
macro_rules! for_each_isa {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($isa:ident: Isa $(, $argument:ident: $type:ty)* $(,)?) $(-> $result:ty)? $body:block
    )*) => {$(
        $(#[$attribute])*
        $visibility fn $name($isa: crate::Isa $(, $argument: $type)*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl")]
            fn avx512($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($argument: $type),*) $(-> $result)? $body

            fn portable($($argument: $type),*) $(-> $result)? $body

            match $isa.kind() {
                // SAFETY (both): an `Isa` is one that the processor has.
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code)]
                crate::isa::Kind::Avx512 { .. } => unsafe { avx512($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code)]
                crate::isa::Kind::Avx2 { .. } => unsafe { avx2($($argument),*) },
                _ => portable($($argument),*),
            }
        }
    )*};
}

pub(crate) use for_each_isa;
