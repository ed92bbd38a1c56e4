from dermai_utils import files
from dermai_utils.data import leakage, split


def test_the_audit_counts_what_a_brute_force_counts(made):
    table = files.read_table(made.table_file)
    table = table[table["source"] == "train"].reset_index(drop=True)
    subset = split.make(table, made, "random")
    lesions = {i for i in set(table["lesion_id"]) if len(set(subset[table["lesion_id"] == i])) > 1}
    counts = leakage.audit(table, subset)
    assert lesions and counts["lesions_in_several_subsets"] == len(lesions)
    assert counts["images_of_such_lesions"] == table["lesion_id"].isin(lesions).sum()
    assert not any(leakage.audit(table, split.make(table, made, "lesion")).values())
