"""Folders of public data sets, and of the same kinds, by the names of their files.

Written from the descriptions of the data sets and from the source of public loaders. Only names count; the files are empty.
"""

from layout import Layout, digest, rows

PETS = ["Abyssinian", "Bengal", "american_bulldog", "great_pyrenees", "shiba_inu"]
ISIC = "ISIC_00{24306..24329}"

LAYOUTS = [
    Layout("dogs-vs-cats", ["train/{cat,dog}.{0..9}.jpg", "test1/{1..12}.jpg"], ["cat", "dog"], skipped=["test-split"]),
    Layout(
        "Oxford pets",
        [*(f"images/{n}_{{1..9}}.jpg" for n in PETS), *(f"annotations/trimaps/{n}_{{1..9}}.png" for n in PETS)],
        PETS,
        skipped=["companion"],
    ),
    Layout("UTKFace", [f"{age}_{{0,1}}_{{0..4}}_2017011{age:04d}.jpg" for age in range(1, 30)], 2, refused=True),
    Layout(
        "UTKFace cropped", [f"{age}_{{0,1}}_{{0..4}}_20170116{age:04d}.jpg.chip.jpg" for age in range(1, 30)], 2, refused=True
    ),
    Layout("cifar2png", ["{train,test}/{airplane,frog}/{0001..0009}.png"], ["airplane", "frog"], skipped=["test-split"]),
    Layout("CIFAR export", ["{train,test}/{0..9}_{frog,truck}.png"], ["frog", "truck"], skipped=["test-split"]),
    Layout(
        "LFW", ["{Aaron_Eckhart,Aaron_Guiel,George_W_Bush}/x_000{1..3}.jpg"], ["Aaron_Eckhart", "Aaron_Guiel", "George_W_Bush"]
    ),
    Layout(
        "Tiny ImageNet",
        [
            *(f"train/{n}/images/{n}_{{0..5}}.JPEG" for n in ("n01443537", "n01629819", "n01641577")),
            "val/images/val_{0..9}.JPEG",
            "test/images/test_{0..9}.JPEG",
        ],
        ["n01443537", "n01629819", "n01641577"],
        refused=True,
    ),
    Layout(
        "ImageNet, flat val",
        ["train/{n01440764,n01443537}/x_{1..9}.JPEG", "val/ILSVRC2012_val_0000000{1..9}.JPEG"],
        2,
        refused=True,
    ),
    Layout("Flowers-102", ["jpg/image_000{01..30}.jpg"], None, refused=True),
    Layout("HAM10000", [f"HAM10000_images_part_{{1,2}}/{ISIC}.jpg"], None, refused=True),
    Layout(
        "FER-2013",
        ["{train,test}/{angry,disgust,fear}/Training_{1000..1008}.jpg"],
        ["angry", "disgust", "fear"],
        skipped=["test-split"],
    ),
    Layout("BreakHis, by magnification", ["{adenosis,fibroadenoma,lobular}/{40X,100X}/SOB_B_A-14-22549AB-40-00{1..4}.png"], 3),
    Layout("mnist_png", ["{training,testing}/{0..9}/{1..4}.png"], 10, skipped=["test-split"]),
    Layout(
        "Kaggle MNIST",
        ["trainingSet/trainingSet/{0..9}/img_{1..4}.jpg", "testSet/testSet/img_{1..9}.jpg"],
        10,
        skipped=["test-split"],
    ),
    Layout("COIL-100", ["obj{1..9}__{0,5,10,15,20}.png"], 9),
    Layout("Stanford Cars", ["cars_train/000{01..20}.jpg", "cars_test/000{01..20}.jpg"], None, refused=True),
    Layout(
        "CUB-200",
        ["images/00{1..3}.{Black_footed,Laysan}_Albatross/Black_Footed_Albatross_00{10..15}_79.jpg"],
        6,
    ),
    Layout("EuroSAT", [f"{n}/{n}_{{1..9}}.jpg" for n in ("Forest", "River", "SeaLake")], ["Forest", "River", "SeaLake"]),
    Layout("NEU defects", ["{crazing,inclusion,pitted_surface,rolled-in_scale}_{1..9}.jpg"], 4),
    Layout(
        "Fruits-360",
        [
            "{Training,Test}/{Apple Braeburn,Avocado,Banana Red}/{0..5}_100.jpg",
            "test-multiple_fruits/{apple,grapes_mango}.jpg",
            "papers/x1.jpg",
        ],
        3,
        skipped=["test-split", "outside-split"],
    ),
    Layout(
        "Intel scenes",
        [
            "seg_train/seg_train/{forest,sea}/{1..9}.jpg",
            "seg_test/seg_test/{forest,sea}/{10..15}.jpg",
            "seg_pred/seg_pred/{1..9}.jpg",
        ],
        ["forest", "sea"],
        skipped=["test-split", "unlabelled"],
    ),
    Layout(
        "MVTec",
        [
            "train/good/{000..009}.png",
            "test/{good,broken_large,contamination}/{000..005}.png",
            "ground_truth/{broken_large,contamination}/{000..005}_mask.png",
        ],
        ["broken_large", "contamination", "good"],
        refused=True,
    ),
    Layout("Magnetic tile", ["MT_{Blowhole,Break,Free}/Imgs/exp{1..3}_num_{4727..4733}.{jpg,png}"], 3, skipped=["companion"]),
    Layout("Omniglot", ["images_background/{Greek,Korean}/character{01..05}/0001_{01..10}.png"], 10, refused=True),
    Layout("Caltech-101", ["101_ObjectCategories/{BACKGROUND_Google,accordion,airplanes}/image_00{01..09}.jpg"], 3),
    Layout("Food-101", ["food-101/images/{apple_pie,baklava}/{1005649..1005660}.jpg"], ["apple_pie", "baklava"]),
    Layout("DTD", [f"dtd/images/{n}/{n}_00{{10..19}}.jpg" for n in ("banded", "blotchy")], ["banded", "blotchy"]),
    Layout(
        "Stanford Dogs",
        [
            f"Images/{n}/{n[:9]}_{{10..19}}.jpg"
            for n in ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02085936-Maltese_dog")
        ],
        3,
    ),
    Layout("PlantVillage", ["PlantVillage/{Pepper__bell___healthy,Potato___Early_blight}/image ({1..9}).JPG"], 2),
    Layout(
        "PlantVillage, raw",
        ["raw/{color,grayscale,segmented}/{Apple___Apple_scab,Apple___healthy,Corn___rust}/image ({1..9}).JPG"],
        3,
        warned=True,
    ),
    Layout(
        "BUSI",
        [f"{n}/{n} ({{1..9}}){{,_mask}}.png" for n in ("benign", "malignant", "normal")] + ["benign/benign (4)_mask_1.png"],
        ["benign", "malignant", "normal"],
        skipped=["companion"],
    ),
    Layout(
        "COVID-19 radiography",
        ["{COVID,Lung_Opacity,Normal}/{images,masks}/x-{1..9}.png"],
        ["COVID", "Lung_Opacity", "Normal"],
        skipped=["companion"],
    ),
    Layout(
        "Chest X-ray pneumonia",
        [
            "chest_xray/{train,val,test}/{NORMAL/IM-0{115..119}-0001.jpeg,PNEUMONIA/person{1..5}_bacteria_1.jpeg}",
            "chest_xray/chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/IM-0{215..219}.jpeg",
        ],
        ["NORMAL", "PNEUMONIA"],
        skipped=["test-split"],
    ),
    Layout(
        "Brain tumour MRI",
        ["{Training,Testing}/{glioma,meningioma,notumor,pituitary}/Tr-gl_00{10..15}.jpg"],
        4,
        skipped=["test-split"],
    ),
    Layout(
        "Brain MRI, nested copy",
        ["{yes,no}/{Y1,Y2,Y3}.jpg", "brain_tumor_dataset/{yes,no}/{Y1,Y2,Y3}.jpg"],
        ["no", "yes"],
        warned=True,
    ),
    Layout(
        "Malaria cells, nested copy",
        [
            "cell_images/{Parasitized,Uninfected}/C33P1_{1..5}.png",
            "cell_images/cell_images/{Parasitized,Uninfected}/C33P1_{1..5}.png",
        ],
        2,
        warned=True,
    ),
    Layout(
        "Rock paper scissors",
        [f"{top}/{n}/{n}{{01..05}}.png" for top in ("rps", "rps-test-set") for n in ("rock", "paper", "scissors")],
        3,
        skipped=["test-split"],
    ),
    Layout("Cats and dogs filtered", ["{train,validation}/{cats/cat,dogs/dog}.{0..9}.jpg"], ["cats", "dogs"]),
    Layout("Horse or human", ["{train,validation}/{horses/horse,humans/human}{01..05}-{0..3}.png"], ["horses", "humans"]),
    Layout("Face mask", ["{with_mask,without_mask}/{with_mask,x}_{1..9}.jpg"], ["with_mask", "without_mask"]),
    Layout(
        "Face mask, three classes", ["{train,test}/{mask,no_mask,mask_weared_incorrect}/{0..5}.png"], 3, skipped=["test-split"]
    ),
    Layout("COCO", ["{train,val}2017/0000000{00139..00159}.jpg"], None, refused=True),
    Layout("ChestX-ray14", [f"images_00{{1,2}}/images/000000{i:02d}_00{{0..2}}.png" for i in range(1, 25)], None, refused=True),
    Layout(
        "Market-1501",
        [f"bounding_box_train/{i:04d}_c{{1,2,3}}s1_00{i:02d}51_0{{0,1}}.jpg" for i in range(2, 20)],
        18,
        refused=True,
    ),
    Layout("Diabetic retinopathy", ["{10..40}_{left,right}.jpeg"], ["left", "right"], refused=True),
    Layout(
        "Imagenette",
        ["imagenette2/{train,val}/{n01440764,n02102040}/ILSVRC2012_val_000{10..19}.JPEG"],
        ["n01440764", "n02102040"],
    ),
    Layout(
        "BreakHis",
        [
            f"{top}/SOB/{kind}/SOB_{top[0].upper()}_{kind[0].upper()}_14-{n}/{{40X,100X}}/SOB_{n}-40-00{{1..4}}.png"
            for top, kinds in (("benign", ("adenosis", "fibroadenoma")), ("malignant", ("ductal", "lobular")))
            for kind in kinds
            for n in ("22549AB", "22549CD", "29960AB")
        ],
        4,
        warned=True,
    ),
    Layout(
        "ASL alphabet",
        [f"asl_alphabet_train/{n}/{n}{{1..5}}.jpg" for n in "ABCDEV"] + ["asl_alphabet_test/{A,B,C}_test.jpg"],
        6,
        skipped=["test-split"],
    ),
    Layout("Weather", ["{cloudy,rain,shine,sunrise}{1..12}.jpg"], ["cloudy", "rain", "shine", "sunrise"]),
    Layout(
        "TF flowers",
        ["flower_photos/{daisy,roses,tulips}/{100080576,10140303196,102841525}_{52a0a8a2b5,3de9a2b7d4,bd6628ae3c}_n.jpg"],
        3,
    ),
    Layout("TrashNet", [f"Garbage classification/{n}/{n}{{1..9}}.jpg" for n in ("cardboard", "glass", "metal")], 3),
    Layout("Animals-10", ["raw-img/{cane,cavallo,elefante}/OIP-{1..9}xAbCdEf.jpeg"], 3),
    Layout("Ants and bees", ["{train,val}/{ants,bees}/{0013035,5650366_e22b7e1065,6240329_72c01e663e}.jpg"], ["ants", "bees"]),
    Layout(
        "Simpsons",
        [
            "simpsons_dataset/simpsons_dataset/{abraham_grampa_simpson,bart_simpson}/pic_00{00..09}.jpg",
            "kaggle_simpson_testset/kaggle_simpson_testset/{abraham_grampa_simpson,bart_simpson}_{0..5}.jpg",
        ],
        2,
        skipped=["test-split"],
    ),
    Layout("UC Merced", [f"Images/{n}/{n}{{00..09}}.png" for n in ("agricultural", "airplane", "beach")], 3),
    Layout("RESISC45", [f"{n}/{n}_{{001..009}}.jpg" for n in ("airplane", "baseball_diamond", "bridge")], 3),
    Layout("Concrete cracks", ["{Negative,Positive}/{00001..00009}.jpg"], ["Negative", "Positive"]),
    Layout("SDNET2018", [f"{n[-1]}/{n}/7001-{{1..20}}.jpg" for n in ("CD", "UD", "CP", "UP", "CW", "UW")], 6, warned=True),
    Layout(
        "Casting products",
        ["casting_data/{train,test}/{def_front/cast_def,ok_front/cast_ok}_0_{10..19}.jpeg"],
        ["def_front", "ok_front"],
        skipped=["test-split"],
    ),
    Layout("CK+48", [f"CK+48/{n}/S0{{10..14}}_004_0000001{{7,8,9}}.png" for n in ("anger", "contempt", "happy")], 3),
    Layout("JAFFE", ["{KA,KL,YM}.{AN,DI,FE}{1..3}.{39..41}.png"], 9, refused=True),
    Layout(
        "Skin cancer ISIC",
        ["Skin cancer ISIC/{Train,Test}/{melanoma,nevus,pigmented benign keratosis}/ISIC_00000{10..15}.jpg"],
        3,
        skipped=["test-split"],
    ),
    Layout(
        "COVID CT, patients",
        [f"{n}/patient_{{1..8}}/slice{{1..5}}.png" for n in ("covid", "normal")],
        ["covid", "normal"],
        warned=True,
    ),
    Layout("Cameras", ["cam{1,2}/{cat,dog}/{1..9}.jpg"], ["cat", "dog"]),
    Layout("Augmented", ["{cat,dog}_{1..20}_aug_{0..4}.png"], ["cat", "dog"]),
    Layout("Actions by frame", ["{run,walk}_{01..12}_frame_00{00..09}.jpg"], ["run", "walk"]),
    Layout("Dated", ["{cat,dog}_2024-{05,06}-{10..19}.jpg"], ["cat", "dog"]),
    Layout("Camera names with a class", ["IMG_202101{01..09}_{cat,dog}_000{1,2}.jpg"], ["cat", "dog"]),
    Layout("Rotations", ["{cat,dog}-0{01..09}_rot{0,90,180}.jpg"], ["cat", "dog"]),
    Layout("Eyes", ["frame00{10..40}_{open,closed}.png"], ["closed", "open"]),
    Layout("Number after a number", ["img_0{01..30}-{3,4,5}.png"], ["3", "4", "5"]),
    Layout("Dots", ["a.{cat,dog}.{1..9}.jpg"], ["cat", "dog"]),
    Layout("Splits in names", ["{train,test}_{cat,dog}_{001..009}.jpg"], ["cat", "dog"], skipped=["test-split"]),
    Layout("Splits with classes", ["{cat,dog}_{train,val,test}/{1..9}.jpg"], ["cat", "dog"], skipped=["test-split"]),
    Layout(
        "FER, tests",
        ["Training/{angry,happy}/{1..9}.jpg", "{PublicTest,PrivateTest}/{angry,happy}/{1..5}.jpg"],
        2,
        skipped=["test-split"],
    ),
    Layout("STL, unlabelled", ["labeled/{cat,dog}/{1..9}.png", "unlabeled/{1..9}.png"], ["cat", "dog"], skipped=["unlabelled"]),
    Layout("A test folder beside", ["train/{cat,dog}/{1..9}.jpg", "test/{1..9}.jpg"], ["cat", "dog"], skipped=["test-split"]),
    Layout("More of one class", ["{cat,dog}/{1..9}.jpg", "dog/more/{10..15}.jpg"], ["cat", "dog"]),
    Layout("Photographs", ["IMG_00{01..30}.JPG"], None, refused=True),
    Layout("Digests", [f"{i * 2654435761 % 2**32:08x}{i * 40503 % 2**16:04x}.jpg" for i in range(1, 40)], None, refused=True),
    Layout(
        "Kaggle CIFAR-10",
        ["train/{1..20}.png", "test/{1..9}.png"],
        ["cat", "frog"],
        refused=True,
        tables={"trainLabels.csv": rows("id,label", [f"{i},{'frog' if i % 2 else 'cat'}" for i in range(1, 21)])},
    ),
    Layout(
        "APTOS",
        [f"train_images/{digest(i)}.png" for i in range(24)] + [f"test_images/{digest(i)}.png" for i in range(30, 40)],
        ["0", "1", "2"],
        refused=True,
        tables={
            "train.csv": rows("id_code,diagnosis", [f"{digest(i)},{i % 3}" for i in range(24)]),
            "test.csv": rows("id_code", [digest(i) for i in range(30, 40)]),
        },
    ),
    Layout(
        "Cassava",
        ["train_images/{1000015157..1000015180}.jpg"],
        ["0", "3"],
        refused=True,
        tables={"train.csv": rows("image_id,label", [f"{i}.jpg,{3 * (i % 2)}" for i in range(1000015157, 1000015181)])},
    ),
    Layout(
        "Plant pathology, one-hot",
        ["images/{Train,Test}_{0..19}.jpg"],
        ["healthy", "multiple_diseases", "rust", "scab"],
        refused=True,
        tables={
            "train.csv": rows(
                "image_id,healthy,multiple_diseases,rust,scab",
                [f"Train_{i}," + ",".join("1" if j == i % 4 else "0" for j in range(4)) for i in range(20)],
            )
        },
    ),
    Layout(
        "Dog breeds",
        [f"train/{digest(i)}.jpg" for i in range(20)],
        ["borzoi", "dingo"],
        refused=True,
        tables={"labels.csv": rows("id,breed", [f"{digest(i)},{'dingo' if i % 2 else 'borzoi'}" for i in range(20)])},
    ),
    Layout(
        "HAM10000 with its table",
        ["HAM10000_images_part_1/ISIC_00{24306..24319}.jpg", "HAM10000_images_part_2/ISIC_00{24320..24329}.jpg"],
        ["bkl", "nv"],
        refused=True,
        tables={
            "HAM10000_metadata.csv": rows(
                "lesion_id,image_id,dx,dx_type,age,sex",
                [f"HAM_{i // 2},ISIC_00{i},{'nv' if i % 3 else 'bkl'},histo,{i % 80}.0,male" for i in range(24306, 24330)],
            )
        },
    ),
    Layout(
        "Fashion products",
        ["images/{1163..1190}.jpg"],
        ["Apparel", "Footwear"],
        refused=True,
        tables={
            "styles.csv": rows(
                "id,gender,masterCategory,year",
                [f"{i},{'Men' if i % 3 else 'Women'},{'Apparel' if i % 2 else 'Footwear'},2011" for i in range(1163, 1191)],
            )
        },
    ),
    Layout(
        "JSON Lines",
        ["{000..019}.png"],
        ["no", "yes"],
        refused=True,
        tables={
            "labels.jsonl": "".join(f'{{"file": "{i:03d}.png", "label": "{"yes" if i % 2 else "no"}"}}\n' for i in range(20))
        },
    ),
    Layout("GTSRB", ["GTSRB/Final_Training/Images/{00000..00004}/{00000..00002}_{00000..00004}.ppm"], 5),
    Layout("ORL faces", ["s{1..8}/{1..10}.pgm"], 8),
    Layout(
        "Histopathologic cancer",
        [f"{split}/{digest(i)}{digest(i + 50)}.tif" for split in ("train", "test") for i in range(20)],
        ["0", "1"],
        refused=True,
        tables={"train_labels.csv": rows("id,label", [f"{digest(i)}{digest(i + 50)},{i % 2}" for i in range(20)])},
    ),
    Layout("Class masks", ["{cat,dog}/{1..9}.jpg", "masks/{cat,dog}_{1..9}.png"], ["cat", "dog"], skipped=["companion"]),
    Layout("VOC", ["JPEGImages/2007_0000{10..40}.jpg", "SegmentationClass/2007_0000{10..40}.png"], None, refused=True),
    Layout("UCF-101", ["v_{Archery,Biking,Bowling}_g{01..05}_c{01..03}.jpg"], ["Archery", "Biking", "Bowling"]),
    Layout(
        "KTH",
        ["person{01..09}_{boxing,waving,walking}_d{1,2}_frame{1..3}.png"],
        ["boxing", "walking", "waving"],
        warned=True,
    ),
    Layout("Patients above", ["P{001..009}/{positive,negative}/{1..4}.png"], ["negative", "positive"]),
    Layout("Days and nights", ["{car,bus}/{day,night}/{1..9}.jpg"], ["bus", "car"], refused=True),
    Layout("Vehicles", ["{bus,car,train,truck}/{1..9}.jpg"], ["bus", "car", "train", "truck"], warned=True),
    Layout("Vehicles in splits", ["{train,test}/{bus,car,train,truck}/{1..9}.jpg"], 4, skipped=["test-split"], warned=True),
    Layout("Glassware", ["{test tube,beaker,flask}/{1..9}.jpg"], 3, warned=True),
    Layout("Colours and clothes", ["{red,blue,green}_{shirt,dress}_{1..9}.jpg"], ["dress", "shirt"], refused=True),
    Layout("Eyes by side", ["{001..015}_{L,R}.png"], ["L", "R"], refused=True),
    Layout("UUIDs", [f"{digest(i)[:8]}-{digest(i)[8:]}-4a5b-9c8d-{digest(i + 99)}.png" for i in range(30)], None, refused=True),
    Layout("Spellings", ["{Cat,cat,dog}/{1..9}.png"], ["Cat", "cat", "dog"], warned=True),
    Layout(
        "Retinopathy with grades",
        ["{10..40}_{left_eye,right_eye}_c{0,1}.jpeg"],
        ["0", "2"],
        refused=True,
        tables={
            "t.csv": rows(
                "image,level",
                [f"{i}_{side}_eye_c{c},{2 * (i % 2)}" for i in range(10, 41) for side in ("left", "right") for c in (0, 1)],
            )
        },
    ),
    Layout(
        "Names and a table",
        ["{cat,dog}_{01..20}.jpg"],
        ["cat", "dog"],
        warned=True,
        tables={
            "breeds.csv": rows("file,breed", [f"{n}_{i:02d}.jpg,breed{i % 4}" for n in ("cat", "dog") for i in range(1, 21)])
        },
    ),
]
