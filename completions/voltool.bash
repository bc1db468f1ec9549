# bash completion for voltool; made by "make generate". Goes to /usr/share/bash-completion/completions/voltool.
_voltool() {
    local IFS=$'\n'
    COMPREPLY=( $(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _VOLTOOL_COMPLETE=complete_bash "$1" 2>/dev/null) )
}
complete -o default -F _voltool voltool
