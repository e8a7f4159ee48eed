"""What it costs, each figure beside the limit that it was measured against in the same run.

`load` sends requests, `barecli` drives the CLI without us, `peers` and `processes` start what is compared, `turns`,
`first_turns`, `history`, `relay` and `memory` measure, `report` writes the table.
"""
