"""Documents ranked by a real server."""

from tests.e2e.server_process import ServerProcess


def test_the_scores_are_the_cosines_of_the_embeddings(server: ServerProcess) -> None:
    texts = ["How many minutes are 3 hours?", "a cat and a dog", "How many minutes are 2 hours?"]
    asked = {"model": "amuse", "query": texts[0], "documents": [texts[1], {"text": texts[2]}, texts[0]]}
    ranking = server.ask("POST", "/v1/rerank", asked).json
    embedded = server.ask("POST", "/v1/embeddings", {"model": "amuse", "input": texts}).json["data"]
    query, *others = [one["embedding"] for one in embedded]
    documents = [*others, query]
    cosines = [sum(a * b for a, b in zip(query, one, strict=True)) for one in documents]

    for one in ranking["results"]:
        assert abs(one["relevance_score"] - cosines[one["index"]]) < 1e-5
    assert [one["index"] for one in ranking["results"]] == [2, 1, 0]
    assert server.ask("POST", "/rerank", {**asked, "top_n": 1}).json["results"] == ranking["results"][:1]
    refused = server.ask("POST", "/v2/rerank", {**asked, "documents": []})
    assert (refused.status, refused.json["error"]["param"]) == (400, "documents")
