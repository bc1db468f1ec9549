# fish completion for voltool; made by "make generate". Goes to /usr/share/fish/vendor_completions.d/voltool.fish.
function __voltool_complete
    _VOLTOOL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] _TYPER_COMPLETE_ARGS=(commandline -cp) \
        voltool 2>/dev/null
end
complete --command voltool --no-files --arguments "(__voltool_complete get-args)" \
    --condition "__voltool_complete is-args"
