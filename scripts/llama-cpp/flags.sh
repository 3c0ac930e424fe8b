# shellcheck shell=bash # sourced by scripts/setup and scripts/peers/build-llama-cpp
# How llama.cpp is built, said once for all who build it. There are three kinds of build:
#
#   native     every instruction that this CPU has
#   plain      no -march=native: for a CPU on which the native build does not work
#   portable   the same on all hosts of a cluster (docs/adr/0027)

# OpenMP's threads spin after each pass, several ranks on one host would take each other's cores; ggml's own threads
# sleep as soon as a pass has ended.
common_options="-DCMAKE_BUILD_TYPE=Release -DGGML_OPENMP=OFF"

# No tiles: GCC 12 drops the stores before `ldtilecfg` (its _tile_loadconfig claims to read 8 of 64 bytes), so ggml's AMX
# kernels die of SIGILL at `tilezero`; and their sums are other ones than those of the kernels that were measured.
no_tiles="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"

cpu_has() {
    local flag
    for flag in "$@"; do
        grep -qE -m1 "^(flags|Features)[[:space:]]*:.* $flag( |\$)" /proc/cpuinfo || return 1
    done
}

# What a build may use of the CPU: the compiler's own words for it.
cpu_options_of() {
    local v3="-msse4.2 -mavx -mavx2 -mbmi2 -mfma -mf16c" # x86-64-v3, as far as ggml has kernels for it
    case $1-$(uname -m) in
        native-x86_64) echo "-march=native" ;;
        native-*) echo "-mcpu=native" ;;
        plain-x86_64) if cpu_has avx avx2 bmi2 fma f16c; then echo "$v3"; else echo "-msse4.2"; fi ;;
        portable-x86_64) echo "$v3" ;;
        *) ;; # what every CPU of that name has
    esac
}

# The same in CMake's options for ggml.
cmake_options_of() {
    local name names="SSE42 AVX AVX2 BMI2 FMA F16C" options
    if [ "$1" = native ]; then
        echo "$common_options -DGGML_NATIVE=ON"
        return
    fi
    options="$common_options -DGGML_NATIVE=OFF"
    if [ "$(uname -m)" = x86_64 ]; then
        [[ $(cpu_options_of "$1") == *avx2* ]] || names=SSE42
        for name in SSE42 AVX AVX2 BMI2 FMA F16C; do
            if [[ " $names " == *" $name "* ]]; then options+=" -DGGML_$name=ON"; else options+=" -DGGML_$name=OFF"; fi
        done
    fi
    echo "$options"
}

# CMake's option for GPUs: cuda, hip or vulkan.
gpu_options() { case ${gpu:-none} in none) ;; *) echo "-DGGML_${gpu^^}=ON" ;; esac; }

# What every file is compiled with, as far as the compiler knows it: one that does not know tiles uses none.
compiler_flags() {
    local flag
    [ "$(uname -m)" = x86_64 ] || return 0
    for flag in $no_tiles; do
        ! echo "int one;" | "${CC:-cc}" "$flag" -x c -c -o /dev/null - 2> /dev/null || printf '%s ' "$flag"
    done
}

# The compiler's macros, which say what a kind of build may use.
macros_of() {
    # shellcheck disable=SC2046,SC2086 # several words are meant
    "${CC:-cc}" ${CFLAGS:-} $(compiler_flags) $(cpu_options_of "$1") -dM -E -x c /dev/null
}
