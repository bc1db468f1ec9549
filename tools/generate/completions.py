"""completions/: what bash, zsh and fish load; they ask voltool itself, which knows its commands, volumes and dumps.

The variables are those by which typer's programs are asked. Source: https://typer.tiangolo.com/tutorial/options-autocompletion/
and the scripts that typer's own --show-completion prints.
"""

from __future__ import annotations

_BASH = """\
# bash completion for voltool; made by "make generate". Goes to /usr/share/bash-completion/completions/voltool.
_voltool() {
    local IFS=$'\\n'
    COMPREPLY=( $(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _VOLTOOL_COMPLETE=complete_bash "$1" 2>/dev/null) )
}
complete -o default -F _voltool voltool
"""

_ZSH = """\
#compdef voltool
# zsh completion for voltool; made by "make generate". Goes to /usr/share/zsh/vendor-completions/_voltool.
_voltool() {
    eval "$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _VOLTOOL_COMPLETE=complete_zsh voltool 2>/dev/null)"
}
if [ "$funcstack[1]" = "_voltool" ]; then
    _voltool "$@"
else
    compdef _voltool voltool
fi
"""

_FISH = """\
# fish completion for voltool; made by "make generate". Goes to /usr/share/fish/vendor_completions.d/voltool.fish.
function __voltool_complete
    _VOLTOOL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] _TYPER_COMPLETE_ARGS=(commandline -cp) \\
        voltool 2>/dev/null
end
complete --command voltool --no-files --arguments "(__voltool_complete get-args)" \\
    --condition "__voltool_complete is-args"
"""


def scripts() -> dict[str, str]:
    """All scripts by their path."""
    return {"completions/voltool.bash": _BASH, "completions/_voltool": _ZSH, "completions/voltool.fish": _FISH}
