"""Chat: small talk, and a wide net of requests the model must decline because it cannot know the answer."""

import random

from .common import BOYS, GIRLS, THINGS, Example, article, noisy, parts, upper_first, user, words

HELP = "short stories, small sums, Python, facts and Spanish."
UNKNOWN = "I do not know that. I know " + HELP

# kind: (prompts, answer, thinking)
SMALL_TALK = {
    "greeting": ((
        "Hello", "Hello!", "Hi", "Hi!", "Hi there!", "Hey", "Hey!", "Hey there!", "Good morning!",
        "Good evening!", "Good afternoon!", "Good day!", "Hello there!", "Greetings!", "Hello, model!",
        "Hi, nice to meet you.", "Hello again!", "Hello, my friend.", "Nice to meet you.",
        "Hello, can you hear me?", "Howdy!", "Yo!", "Hello, I am {n}.", "Hi, my name is {n}.",
        "Hey, it is {n}.", "Good morning, my name is {n}.", "Are you there?", "Hello, is anyone there?",
        "Hi, {n} here.", "I am {n}. Hello!"), "Hello! How can I help you?", "This is a greeting."),
    "thanks": ((
        "Thanks", "Thanks!", "Thank you", "Thank you!", "Thank you very much.", "Thanks a lot!",
        "Many thanks.", "Great, thank you!", "That was helpful, thanks.", "Thanks for your help.",
        "Thank you for the answer.", "Perfect, thanks!", "I thank you.", "Thank you so much!",
        "Cool, thanks.", "Okay, thank you.", "Well done!", "Good job!", "Thanks, that is right.",
        "Nice, thanks a lot."), "You are welcome!", "This is a thank you."),
    "goodbye": ((
        "Bye", "Bye!", "Goodbye", "Goodbye!", "Bye bye!", "See you!", "See you later.", "See you soon!",
        "See you tomorrow!", "Good night!", "I have to go now.", "I must go. Bye!", "Have a nice day!",
        "Farewell!", "Take care!", "That is all. Goodbye.", "Talk to you later.", "Until next time!",
        "I am leaving now.", "So long!"),
        "Goodbye! Have a nice day.", "This is a goodbye."),
    "how_are_you": ((
        "How are you?", "How are you doing?", "How are you today?", "How do you do?", "How is it going?",
        "Are you well?", "Are you okay?", "Hi, how are you?", "Hello, how are you today?", "How do you feel?",
        "Is everything fine?", "How is your day?", "What's up?", "How have you been?", "You all right?",
        "Hey, how is it going?", "Hi {n} here, how are you?", "Good morning, how are you?"),
        "I am fine, thank you. How can I help you?", "The user asks how I am."),
    "identity": ((
        "Who are you?", "What are you?", "Tell me who you are.", "What is your name?", "Do you have a name?",
        "Are you a human?", "Are you a robot?", "Are you a person?", "What kind of model are you?",
        "Which model are you?", "Introduce yourself.", "Tell me about yourself.", "Say who you are.",
        "What model is this?", "Are you ChatGPT?", "Are you an AI?", "Who am I talking to?",
        "How big are you?", "Can you introduce yourself?", "Describe yourself.", "What should I call you?",
        "Are you a large model?"),
        "I am a tiny mixture-of-experts model. I know " + HELP, "The user asks who I am."),
    "ability": ((
        "What can you do?", "How can you help me?", "What do you know?", "What are you good at?", "Help!",
        "Help me.", "What can I ask you?", "Which questions can you answer?", "What can you help me with?",
        "Can you help me?", "Tell me what you can do.", "What are your skills?",
        "What kind of questions do you know?", "I need help.", "Show me what you can do.",
        "What did you learn?", "What were you trained on?", "What topics do you know?",
        "Give me a list of what you can do.",
        "What should I ask?"), "I know " + HELP, "The user asks what I can do."),
}

TOPICS = parts("""
    weather|traffic|football|tennis|chess|golf|cricket|swimming|yoga|dancing|jazz|opera|rock music|
    the piano|guitars|violins|poetry|novels|Shakespeare|Harry Potter|Star Wars|movies|television|cartoons|
    video games|newspapers|politics|elections|democracy|war|peace|the United Nations|taxes|money|banks|
    inflation|bitcoin|stocks|insurance|marketing|physics|gravity|relativity|quantum mechanics|black holes|
    galaxies|planets|Mars|the moon|rockets|satellites|chemistry|oxygen|hydrogen|carbon|plastic|iron|gold|
    diamonds|biology|evolution|genes|DNA|cells|bacteria|viruses|vaccines|cancer|diabetes|headaches|vitamins|
    sleep|dreams|stress|happiness|love|friendship|marriage|children|parents|school exams|universities|
    history|the Roman Empire|Napoleon|Einstein|Mozart|Picasso|Cleopatra|dinosaurs|elephants|whales|sharks|
    penguins|butterflies|mushrooms|roses|trees|forests|deserts|oceans|rivers|volcanoes|earthquakes|
    hurricanes|climate change|solar panels|nuclear power|oil|electric cars|trains|airplanes|ships|bicycles|
    bridges|skyscrapers|castles|pyramids|churches|religion|Buddhism|philosophy|ethics|psychology|memory|
    language|grammar|Latin|Arabic|algebra|geometry|calculus|prime numbers|statistics|probability|infinity|
    computers|the internet|smartphones|robots|neural networks|transformers|databases|Linux|Windows|
    JavaScript|Rust|compilers|encryption|passwords|bread|pizza|pasta|soup|chocolate|coffee|tea|wine|beer|
    cheese|sushi|salad|pancakes|apple pie|gardening|fishing|camping|hiking|travel|hotels|passports|
    Paris fashion|shoes|jewellery|furniture|paint|photography|cameras|birthdays|Christmas|Halloween|
    the Olympics|soldiers|police|lawyers|doctors|dentists|teachers|farmers|astronauts|pirates|dragons|
    ghosts|magic|jokes|riddles
    """)
COUNTRIES = words("""
    Brazil Argentina Chile Mexico Bolivia Ecuador Colombia Venezuela Uruguay Paraguay Turkey Iran Iraq Syria
    Lebanon Israel Jordan India Pakistan Nepal Bangladesh Thailand Vietnam Laos Cambodia Indonesia Malaysia
    Australia Finland Denmark Iceland Belgium Hungary Romania Bulgaria Serbia Croatia Slovenia Slovakia
    Ukraine Estonia Latvia Lithuania Switzerland Morocco Algeria Tunisia Libya Sudan Ethiopia Somalia Uganda
    Tanzania Ghana Nigeria Senegal Mali Angola Zambia Zimbabwe Botswana Namibia Madagascar Mongolia Taiwan
    Haiti Jamaica Panama Honduras Guatemala Scotland Texas California
    """)
ANIMALS = words("""
    tiger wolf bear elephant zebra giraffe monkey camel whale shark eagle parrot mouse rabbit donkey
    turkey crocodile octopus kangaroo panda fox deer squirrel bat dolphin
    """)
WORDS = words("""
    bicycle window river mountain doctor kitchen spoon cloud winter shoe train computer butterfly pencil
    bread cheese teacher sister ocean star bridge chair hammer umbrella lazy expensive angry purple quiet
    brave whisper forget laugh swim dance climb borrow happily never between
    """)
LANGUAGES = words("""
    German French Italian Russian Chinese Japanese Arabic Dutch Swedish Polish Turkish Greek
    """)
PROGRAMS = parts("""
    a web server in Java|a game in C++|a script in Bash|a class in Rust|a loop in JavaScript|
    a web page in HTML|a query in SQL|a Python program that downloads a page|
    a Python class for a bank account|a neural network in PyTorch|a sorting algorithm in C|
    a Python function that reads a file|a Python function that sends an email|
    a Python function for prime numbers|a regular expression for dates|a Fibonacci function in Haskell|
    a calculator in Java|a chat bot in Go|a unit test|a Dockerfile
    """)
WORKS = words("""
    poem song letter email essay speech joke haiku story novel recipe report review diary article summary
    menu riddle script tweet
    """)
FOREIGN = ("Guten Morgen, wie geht es dir?", "Wie heißt du?", "Ich habe Hunger.", "Wo ist der Bahnhof?",
           "Was kostet das Brot?", "Erzähl mir einen Witz.", "Wie wird das Wetter morgen?", "Ich liebe dich.",
           "Die Katze schläft auf dem Sofa.", "Kannst du mir helfen?", "Bonjour, comment ça va?",
           "Je suis fatigué.", "Où est la gare?", "Comment t'appelles-tu?", "Quelle heure est-il?",
           "Le chat dort sur le lit.", "Je voudrais un café.", "Raconte-moi une histoire.",
           "Quel temps fait-il?", "Merci beaucoup, mon ami.", "Buongiorno, come stai?", "Mi chiamo Giulia.",
           "Dove posso mangiare una pizza?", "Che ore sono?", "Il gatto beve il latte.",
           "Non capisco niente.", "Vorrei un gelato.", "Quanto costa il libro?", "Hoe gaat het met jou?",
           "Bom dia, tudo bem?", "Jag heter Anna.", "Dzień dobry, jak się masz?")
SYLLABLES = words("""
    ba zor mel ti ka run del vo shi qua lin gor pex tu fra wen dil mor zan bel ku rit os yam
    """)

# {t}, {u} topics, {c} country, {i} invented name, {w} word, {a} animal ({aw}, {aa} with an article),
# {p} program, {l} language, {k} text, {n} name, {g} thing, {x}, {y} numbers, {f} foreign, {z} gibberish.
NEAR = (
    "What is the capital of {c}?", "Tell me the capital of {c}.", "Which city is the capital of {c}?",
    "What is the capital of {i}?", "Name the capital of {i}.", "Who is the president of {c}?",
    "How many people live in {c}?", "What language do they speak in {c}?", "What is {x} + {y}?",
    "What is {x} * {y}?", "{x} + {y}", "{x} - {y} = ?", "Calculate {x} times {y}.",
    "What is the square root of {x}?", "Add {x} and {y}.", "Divide {x} by {y}.",
    "What sound does {aa} make?", "What does {aa} say?", "What is a baby {a} called?", "How fast is {aa}?",
    "Where do I find {aa}?", "What is the opposite of {w}?", "What is the opposite of {i}?",
    "How do you say {w} in Spanish?", "What is {w} in Spanish?", "How do you say {w} in {l}?",
    "Translate into {l}: The cat sees the house.", "What is cat in {l}?", "Translate {w} into {l}.",
    "Write {p}.", "Can you write {p}?", "Show me {p}.", "I need {p}.", "Who has the {g}?", "Where is {n}?",
    "What does {n} have?", "What colour is the {g}?", "Where is the {g}?", "Who is {i}?", "Where is {i}?",
    "Who is {i} {i}?", "What does {i} mean?", "How many days has {n} been away?", "What year is it?",
    "What time is it?", "What day is it today?",
)
FAR = (
    "Tell me about {t}.", "What do you know about {t}?", "Explain {t}.", "Explain {t} to a child.",
    "Why do people like {t}?", "What is the history of {t}?", "Who invented {t}?",
    "How does one learn about {t}?", "Write a {k} about {t}.", "Can you write me a {k} about {t}?",
    "Give me a {k} about {t}.", "I need a {k} on {t}.", "What is the best book about {t}?",
    "What do you think about {t}?", "Do you like {t}?", "Is {t} dangerous?", "Why is {t} important?",
    "Compare {t} and {u}.", "What is better, {t} or {u}?", "How is {t} related to {u}?",
    "What is the latest news about {t}?", "How much does it cost to learn {t}?",
    "Where can I study {t} in {c}?", "Give me three tips for {t}.", "What are the problems with {t}?",
    "Describe {t} in one sentence.", "How would you explain {t} to {n}?",
    "I am worried about {t}. What should I do?", "Define {t}.", "{t}", "{t}?", "What is {t}?",
    "What are the main ideas of {t}?", "Make a list of facts about {t}.", "Summarize {t}.",
    "Can you teach me {t}?", "Recommend a film about {t}.", "Who is the most famous expert on {t}?",
    "How will {t} change in the future?", "What did {i} say about {t}?",
    "Is it true that {t} came from {c}?", "What is the weather in {c}?", "Will it rain tomorrow?",
    "Plan a trip to {c}.", "What should I eat in {c}?", "How far is {c} from the moon?",
    "What happened in {c} yesterday?", "How do I cook {t}?", "What is your favourite {k}?", "Sing me a {k}.",
    "Translate this {k} about {t} into {l}.", "Buy me {aw}.", "Draw {aa} with {aw}.",
    "How do I repair {aw}?", "How tall is {n}'s {w}?", "My {w} is broken.", "Should I marry {i}?",
    "How old is {i}?", "When was {i} born?", "Did {n} ever visit {c}?", "{i} {i} {i}", "{i} {i}?", "{z}",
    "{z} {z}", "{f}", "{f}", "{f}",
)


def invented(rng: random.Random) -> str:
    """A name that does not exist, such as "Zorkati"."""
    return upper_first("".join(rng.sample(SYLLABLES, rng.randint(2, 3))))


def gibberish(rng: random.Random) -> str:
    """Random letters, such as "xqjw dkf"."""
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 7)))
                    for _ in range(rng.randint(1, 4)))


def unknown(rng: random.Random) -> str:
    """A request from outside the five domains; half of them look much like one from inside."""
    template = rng.choice(NEAR if rng.random() < 0.45 else FAR)
    topic, other = rng.sample(TOPICS, 2)
    animal, word, kind = rng.choice(ANIMALS), rng.choice(WORDS), rng.choice(WORKS)
    fields = {"t": topic, "u": other, "c": rng.choice(COUNTRIES), "i": invented(rng), "w": word,
              "aw": article(word), "l": rng.choice(LANGUAGES), "a": animal, "aa": article(animal),
              "p": rng.choice(PROGRAMS),
              "k": kind, "n": rng.choice(GIRLS + BOYS), "g": rng.choice(THINGS), "x": rng.randint(100, 9999),
              "y": rng.randint(11, 999), "z": gibberish(rng), "f": rng.choice(FOREIGN)}
    if kind[0] in "aeiou":
        template = template.replace(" a {k}", " an {k}")
    return noisy(rng, template, fields)


def sample(rng: random.Random, difficulty: float) -> Example:
    """Small talk (one in three) or a request to decline."""
    if rng.random() < 0.33:
        kind = rng.choice(tuple(SMALL_TALK))
        prompts, answer, thinking = SMALL_TALK[kind]
        text = noisy(rng, rng.choice(prompts), {"n": rng.choice(GIRLS + BOYS)}, openers=False)
    else:
        kind, answer, thinking = "unknown", UNKNOWN, "This is outside what I know."
        text = unknown(rng)
    return Example("chat", kind, [user(text)], thinking, answer)
