# Reads objdump's output for aarch64 and prints, for each innermost loop of a product, the numbers of instructions, multiply-adds, other
# vector instructions, vector loads and accesses to the stack. The loops of whole tiles (24 sums) must fulfil three conditions: at least
# 90 % of the vector instructions are multiply-adds, there are at least 8 scalar multiply-adds (two `fmla`) for each load, and the stack
# is not accessed. Otherwise the script fails. The loops of tiles of five rows and of skinny products are only counted. With
# `-v show=1` the instructions of each loop follow.
BEGIN {
    # Scalar multiply-adds of an instruction.
    numbers["fmla"] = 4; numbers["bfdot"] = 8; numbers["bfmmla"] = numbers["sdot"] = 16; numbers["smmla"] = 32
    printf "%-34s %4s %12s %8s %7s %7s %6s %6s\n", "function", "sums", "instructions", "products", "numbers", "others", "loads", "stack"
}

/^[0-9a-f]+ <.*>:$/ {
    name = $0; sub(/^[0-9a-f]+ </, "", name); sub(/>:$/, "", name)
    wanted = name ~ /(block|sums|skinny|panel)::neon/; n = loops = 0; split("", place)
    next
}

# A loop ends with a branch backwards; it is innermost if no other loop begins between.
wanted && /^ +[0-9a-f]+:/ {
    at = $1; sub(/:$/, "", at); place[at] = n; operation[n] = $2; first[n] = $3; text[n] = $0
    if ($2 ~ /^(b|b\..*|cbn?z|tbn?z)$/ && match($0, /[0-9a-f]+ </)) {
        to = substr($0, RSTART, RLENGTH - 2)
        if (to in place) {
            innermost = 1
            for (l = 0; l < loops; ++l) if (begin[l] >= place[to]) innermost = 0
            begin[loops++] = place[to]
            if (innermost) report(place[to], n)
        }
    }
    ++n
}

function report(from, to,   i, products, total, others, loads, stack, sums, seen, is_skinny) {
    products = total = others = loads = stack = sums = 0; split("", seen)
    for (i = from; i <= to; ++i) {
        if (operation[i] in numbers) {
            ++products; total += numbers[operation[i]]
            if (!(first[i] in seen)) { seen[first[i]]; ++sums }
        } else if (operation[i] ~ /^ld/ && text[i] ~ /[ \t,{][vqds][0-9]+/) loads += operation[i] == "ldp" ? 2 : 1
        else if (first[i] ~ /^v[0-9]+\./) ++others
        if (text[i] ~ /\[sp/) ++stack
    }
    is_skinny = name !~ /(block|sums)::neon/
    if (sums < 20 && !is_skinny || sums == 0) return
    printf "%-34s %4d %12d %8d %7d %7d %6d %6d\n", name, sums, to - from + 1, products, total, others, loads, stack
    if (show) for (i = from; i <= to; ++i) print text[i]
    if (is_skinny) return
    found[name]
    if (sums < 24) return
    if (products < 0.9 * (products + others) || total < 8 * loads || stack > 0) { print "FAILED: the loop above"; failed = 1 }
}

END {
    count = 0; for (name in found) ++count
    if (count < 4) { print "FAILED: no tile of neon, neon_bf16, neon_dot or neon_matrix"; failed = 1 }
    exit failed
}
