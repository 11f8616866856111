"""The device code under ThreadSanitizer and AddressSanitizer: races inside a block and between blocks, reads past the end."""

import subprocess
from pathlib import Path

import pytest
from host_build import cpu_program, program
from native_build import BuildError

# ThreadSanitizer's exit status after a report.
RACE = 66


@pytest.fixture(scope="module")
def races() -> Path:
    return built("tsan", "-fsanitize=thread")


def built(name: str, *flags: str) -> Path:
    try:
        return program(name, *flags)
    except BuildError as error:
        if "cannot find" in str(error):
            pytest.skip(f"the sanitizer's library is missing: {error}")
        raise


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # halt_on_error: one report is enough, and hundreds would be slow to write.
    environment = {"TSAN_OPTIONS": f"exitcode={RACE} halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    # Address space randomisation beyond what gcc's ThreadSanitizer knows makes it abort on some kernels.
    return subprocess.run(
        ["setarch", "-R", str(program), *arguments],
        capture_output=True,
        text=True,
        env={**environment, "PATH": "/usr/bin:/bin"},
        check=False,
    )


def test_no_race_and_right_results(races):
    result = run(races)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("which", "sync"), [*(("softargmax", k) for k in range(3)), ("solvers", 0)])
def test_every_barrier_is_needed(races, which, sync):
    """Proof that the check above can fail: without any one __syncthreads there is a race, and it is seen.

    The solvers' kernels have one barrier each, left out in all of them at once.
    """
    result = run(races, which, str(sync))
    assert result.returncode == RACE and "data race" in result.stderr, result.stdout + result.stderr


def test_no_access_out_of_bounds():
    result = run(built("asan", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_cpu_kernel_leaves_its_tensors_nor_computes_what_cpp_leaves_undefined():
    """Odd shapes through every kernel of every instruction set that this processor has."""
    try:
        tables = cpu_program("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    except BuildError as error:
        if "cannot find" in str(error):
            pytest.skip(f"the sanitizer's library is missing: {error}")
        raise
    result = run(tables)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "baseline" in result.stdout.split()
