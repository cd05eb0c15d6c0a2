#!/usr/bin/env bash
# build.sh OUT CARGO_TARGET: makes the libraries that a program with the feature `cuda` is linked with, in the folder OUT:
#
#   libcuda.so.1    the driver, with the kernels of candle and of cuda-kernels compiled for the CPU
#   libcublas.so.13, libcurand.so.10, libnccl.so.2, and libcublasLt, libnvrtc and libcudart, which are asked for nothing
#
# CARGO_TARGET has the crates, built: cudarc refers to functions of the driver that are never called here, and candle-kernels is
# the source of candle's kernels. Needs g++ and binutils.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
target=$(cd "$2" && pwd)
cd "$(dirname "$0")"
own=../../crates/cuda-kernels/kernels

# Only packages of this platform were downloaded.
host=$(rustc -vV | sed -n 's/^host: //p')
candle=$(cargo metadata --format-version 1 --offline --filter-platform "$host" --features caption-lora/cuda |
    grep -o '"manifest_path":"[^"]*/candle-kernels-[^"]*"' | head -n 1 | cut -d '"' -f 4)
candle=${candle%/Cargo.toml}/src
[[ -d $candle ]] || { echo "the source of candle-kernels is not there" >&2; exit 1; }

# As crates/cuda-kernels/build.rs. Candle's kernels read vectors through pointers to other types.
flags=(-std=c++17 -O2 -fPIC -w -fvisibility=hidden -ffp-contract=off -fno-strict-aliasing -U_FORTIFY_SOURCE
    -ftrivial-auto-var-init=pattern -fcf-protection=none)
changed() { [[ ! -e $out/.$1 || $(find "${@:2}" -type f -newer "$out/.$1" | head -n 1) ]]; }

compile() { # OBJECT ARGUMENTS...
    local object=$1
    shift
    g++ "${flags[@]}" -c -o "$object" "$@"
}

# A file of candle's, with all its kernels entered in the register of the emulation.
candle_kernels() {
    local name=$1 include=(-I include -I "$candle")
    printf '#include "candle_on_host.h"\n#include "%s.cu"\n' "$name" > "$out/$name.cpp"
    g++ -std=c++17 -w -E "${include[@]}" "$out/$name.cpp" |
        sed -n 's/.*extern "C"  *void  *\([a-z0-9_]*\)(.*/CANDLE_KERNEL(\1)/p' | sort -u > "$out/$name.list"
    cat "$out/$name.list" >> "$out/$name.cpp"
    compile "$out/candle_$name.o" "${include[@]}" "$out/$name.cpp"
}

if changed candle include "$own/host" "$candle"; then
    for name in affine binary cast conv fill indexing reduce ternary unary; do candle_kernels "$name"; done
    touch "$out/.candle"
fi
if changed own "$own"; then
    for source in "$own"/*.cu; do compile "$out/own_$(basename "$source" .cu).o" -xc++ "$source"; done
    touch "$out/.own"
fi
compile "$out/driver.o" -fvisibility=default driver.cpp
compile "$out/cublas.o" -O3 -fvisibility=default cublas.cpp
compile "$out/curand.o" -fvisibility=default curand.cpp
compile "$out/nccl.o" -fvisibility=default nccl.cpp

# Functions that cudarc refers to, that begin with $1 and that the object $2 has not: they end the process with their name.
missing() {
    nm -A "$target"/release/deps/libcudarc-*.rlib 2> /dev/null | sed -n "s/.* U \($1[A-Za-z0-9_]*\)\$/\1/p" | sort -u |
        comm -23 - <(nm --defined-only "$2" | awk '{ print $3 }' | sort -u) |
        awk 'BEGIN { print "int cuda_stand_in_missing(const char*);" }
             { printf "int %s() { return cuda_stand_in_missing(\"%s\"); }\n", $1, $1 }'
}

# LIBRARY VERSION PREFIX OBJECTS...
library() {
    local name=$1 version=$2 prefix=$3
    shift 3
    missing "$prefix" "$1" > "$out/missing_$name.c"
    gcc -w -fPIC -O1 -c -o "$out/missing_$name.o" "$out/missing_$name.c"
    g++ -shared -Wl,-soname,"$name.so.$version" -o "$out/$name.so.$version" "$@" "$out/missing_$name.o" "${link[@]}"
    ln -sf "$name.so.$version" "$out/$name.so"
}

printf '' > "$out/nothing.c"
gcc -c -fPIC -o "$out/nothing.o" "$out/nothing.c"
# Candle's files define the same helpers.
link=(-Wl,-z,muldefs)
library libcuda 1 'cu[A-Z]' "$out/driver.o" "$out"/candle_*.o "$out"/own_*.o
link=(-L"$out" -lcuda)
library libcublas 13 'cublas[A-KM-Z]' "$out/cublas.o"
library libcublasLt 13 'cublasLt' "$out/nothing.o"
library libcurand 10 'curand' "$out/curand.o"
library libnvrtc 13 'nvrtc' "$out/nothing.o"
library libcudart 13 'cudart' "$out/nothing.o"
library libnccl 2 nccl "$out/nccl.o"
