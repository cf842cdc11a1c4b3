# The interpreter of a context: runs code that is sent to it in this very shell, and tells what came of it.
#
# Orders come on descriptor 0, each ended by NUL: a line that says what to do and how long the code is, then the code. Answers go back on it, a
# line of JSON each. User code has the channel closed: bash keeps it elsewhere for as long, where no child inherits it.
exec {__caisson_channel}<&0 0</dev/null

# A signal ends what runs in the foreground by itself. What is left of the run is passed over: before every command bash asks here, and
# returns from where it is, up to the driver's own lines.
__caisson_pass_over() {
    [[ ${FUNCNAME[1]-main} == @(main|__caisson_*) ]] || return 2
}
__caisson_interrupt() {
    __caisson_interrupted=1
    shopt -s extdebug
    set -o functrace
    trap __caisson_pass_over DEBUG
}
__caisson_go_on() {
    trap - DEBUG
    shopt -u extdebug
    set +o functrace
    __caisson_interrupted=
}
__caisson_say() {
    printf '{"type":"%s"%s}\n' "$1" "$2" >&"$__caisson_channel"
}
__caisson_as_before() {
    return "$__caisson_status"
}
__caisson_is_only_begun() {
    local said
    said=$("$BASH" -n -c "$__caisson_code" {__caisson_channel}>&- 2>&1)
    [[ $said == *'unexpected end of file'* || $said == *'unexpected EOF'* || $said == *'delimited by end-of-file'* ]]
}
__caisson_status=0
__caisson_interrupted=
trap __caisson_interrupt INT

__caisson_say ready ",\"version\":\"bash $BASH_VERSION\""
while IFS= read -r -d '' -u "$__caisson_channel" __caisson_order; do
    __caisson_code=${__caisson_order#*$'\n'}
    if [[ ${__caisson_order%%[ $'\n']*} == try ]] && __caisson_is_only_begun; then
        __caisson_say "done" ',"status":"incomplete"'
        continue
    fi
    [[ -z $__caisson_interrupted ]] || __caisson_go_on
    __caisson_say begun
    __caisson_as_before
    source /dev/stdin <<<"$__caisson_code" {__caisson_channel}>&-
    __caisson_status=$?
    if [[ -n $__caisson_interrupted ]]; then
        __caisson_go_on
        __caisson_status=130
        __caisson_say "done" ',"status":"interrupted","exit_code":130'
    else
        __caisson_say "done" ",\"status\":\"ok\",\"exit_code\":$__caisson_status"
    fi
done
