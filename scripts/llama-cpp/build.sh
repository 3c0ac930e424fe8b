# shellcheck shell=bash disable=SC2154 # sourced by scripts/setup, which sets and uses these names
# The wheel of llama.cpp: built once for each kind of build and kept outside the repository.

# shellcheck source=scripts/llama-cpp/flags.sh
. "$changes/flags.sh"

# A wheel dies with SIGILL on a CPU that lacks an instruction, and with a loader error on an older C library, so both are
# in its key. The Python version is not: the wheel holds plain shared libraries (its tag is py3-none).
wheel_key() {
    {
        printf '%s\n' "$llama_version" "$1" "$(cmake_options_of "$1")" "$no_tiles" "$(uname -m)" \
            "$(getconf GNU_LIBC_VERSION)"
        gpu_options
        cat "$changes"/*.patch "$changes"/*.h
        [ "$1" != native ] ||
            sed -n -E 's/^(flags|Features|CPU implementer|CPU part)[[:space:]]*: //p' /proc/cpuinfo | sort -u
    } | hash_of
}

compiler() { "${CXX:-c++}" --version 2> /dev/null | head -n 1 || true; }

# A build that has failed its check is not made again, unless by another compiler.
is_refused() { [ -f "$wheels/$1/refused" ] && [ "$(sed -n 1p "$wheels/$1/refused")" = "$(compiler)" ]; }

# Choose the first kind of build that has not failed here: sets `build` and `wheel`.
choose_build() {
    local kind reasons=""
    [ "$where-$(uname -m)" != any-x86_64 ] || cpu_has avx avx2 bmi2 fma f16c ||
        stop "the portable build is for CPUs with AVX2 and FMA (x86-64-v3), which this one lacks; set up each kind of host" \
            "without --portable."
    for kind in $([ "$where" = any ] && echo portable || echo native plain); do
        build=$kind wheel=$(wheel_key "$kind")
        is_refused "$wheel" || return 0
        reasons+="${reasons:+, }the $kind build $(sed -n 2p "$wheels/$wheel/refused")"
    done
    stop "llama.cpp as this compiler builds it does not work on this CPU ($reasons); install a newer compiler, or name" \
        "one with CC and CXX, and run scripts/setup again."
}

# Keep in mind that this build is no good, and why.
refuse_build() {
    rm -f "$wheels/$wheel"/*.whl
    printf '%s\n' "$(compiler)" "$1" > "$wheels/$wheel/refused"
}

need_wheel() {
    local folder=$wheels/$wheel
    if ! compgen -G "$folder/*.whl" > /dev/null; then
        mkdir -p "$wheels" || stop "the folder $wheels cannot be made; name another with MPISPEC_WHEELS."
        exec 8> "$wheels/$wheel.lock"
        flock -n 8 || { say "  waiting for another set-up that is building llama.cpp"; flock 8; }
        compgen -G "$folder/*.whl" > /dev/null || build_wheel "$folder"
        exec 8>&-
    fi
    llama_wheel=$(compgen -G "$folder/*.whl")
}

fetch_sources() {
    pip download --no-deps --no-cache-dir --no-binary llama-cpp-python --dest "$1" "llama-cpp-python==$llama_version" &&
        tar -xzf "$1"/*.tar.gz --strip-components 1 -C "$1" &&
        cat "$changes"/*.patch | patch --directory "$1" --strip 1 &&
        cp "$changes"/*.h "$1/vendor/llama.cpp/ggml/src/ggml-cpu/" &&
        macros_of "$build" | "$venv/bin/python" "$root/mpispec/compute/cpu_needs.py" "$build" \
            > "$1/llama_cpp/cpu-needs.json"
}

build_wheel() {
    local tool flags
    for tool in "${CC:-cc}" "${CXX:-c++}" patch; do
        command -v "$tool" > /dev/null || stop "$tool was not found; on Debian and Ubuntu: apt install gcc g++ patch."
    done
    building=$(mktemp -d "$wheels/building-XXXXXX")
    run "fetching the sources of llama.cpp" fetch_sources "$building/sources"
    flags=$(compiler_flags)
    # cmake and ninja, where missing, come as wheels. LLAVA_BUILD: image input, which mpispec does not use.
    CFLAGS="${CFLAGS:-} $flags" CXXFLAGS="${CXXFLAGS:-} $flags" CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) \
        CMAKE_ARGS="$(cmake_options_of "$build") $(gpu_options) -DLLAVA_BUILD=OFF" \
        run "$(title_of_build)" pip wheel -v --no-deps --no-cache-dir --wheel-dir "$building" "$building/sources"
    rm -rf "$building/sources"
    printf '%s\n' "llama-cpp-python $llama_version, $build" "$(cmake_options_of "$build") $(gpu_options)" "$flags" "$(compiler)" \
        "$(uname -m), $(getconf GNU_LIBC_VERSION)" > "$building/built-with.txt"
    chmod 755 "$building"
    rm -rf "$1"
    mv "$building" "$1"
    building=""
}

title_of_build() {
    case $build in
        native) echo "building llama.cpp for this CPU, once (about 3 minutes on 2 cores)" ;;
        plain) echo "building llama.cpp once more, without -march=native" ;;
        portable) echo "building llama.cpp for CPUs of many kinds, once (about 3 minutes on 2 cores)" ;;
    esac
}

# What asks the installed llama.cpp to compute; a test puts another in its place.
ask_build() {
    ulimit -c 0
    "$venv/bin/python" -m mpispec.compute.check_build
}

# Have a process of its own compute with the build that was installed; sets `flaw` and fails if the build is no good.
# Whatever else goes wrong, from a missing file to a process killed for its memory, is not the build's fault.
check_build() {
    local title="checking what this build computes" rc=0
    attempt "$title" ask_build || rc=$?
    case $rc in
        0) return 0 ;;
        3) flaw="computes wrong numbers" ;;
        132 | 133 | 134 | 135 | 136 | 139 | 159) flaw="died of SIG$(kill -l $((rc - 128)))" ;;
        *) explain "$title" "$rc" ;;
    esac
    return 1
}

# Install the first build that computes as it should.
install_working_build() {
    while :; do
        need_wheel
        install_packages
        ! check_build || return 0
        say "  The $build build of llama.cpp $flaw on this CPU."
        refuse_build "$flaw"
        choose_build
        again=1
    done
}
