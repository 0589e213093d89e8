"""Which commit the working folder is of, without running what its repository says is to be run.

A folder may be unpacked from anywhere, with a .git in it whose configuration names programs:
core.fsmonitor and a filter's clean are run by `git status`, a remote's uploadpack where a lazily
fetched object is missing. So git looks for changes only where a repository's own configuration has
no key but those that every clone has. Reading the configuration, and HEAD, runs nothing.
"""

import os
import re
import subprocess

_SECONDS = 3.0
_HARMLESS = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode"
    r"|symlinks|autocrlf|eol)"
    r"|user\.(name|email)"
    r"|branch\..*\.(remote|merge|rebase)"
    r"|remote\..*\.(url|fetch|pushurl|tagopt|gh-resolved)"
    r"|submodule\..*\.(url|active)|submodule\.active"
    r"|(init|pull|push|gc|maintenance|rerere|http|advice|safe)\..*"
    r"|lfs\.(repositoryformatversion|(.*\.)?(access|locksverify))"
)
_UNTOUCHED = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=")


def git_commit() -> str | None:
    """The working folder's commit, and whether files differ from it; None if there is none."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    keys = _git("config", "--local", "--includes", "--name-only", "--list")
    if keys is None or not all(_HARMLESS.fullmatch(key) for key in keys.splitlines()):
        return f"{commit}; not looked for changes, since the repository's configuration is its own"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    return commit + (", with changes" if changed else "")


def _git(*arguments: str) -> str | None:
    """What git says; None where it fails, or is not there."""
    try:
        done = subprocess.run(
            ["git", *_UNTOUCHED, *arguments],
            capture_output=True,
            timeout=_SECONDS,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()
